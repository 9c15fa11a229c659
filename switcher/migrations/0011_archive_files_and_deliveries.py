"""Rename two models in the code. The tables keep their names, so no data is rewritten."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("switcher", "0010_pins_and_model_copies")]

    operations = [
        migrations.AlterModelTable("Segment", "switcher_segment"),
        migrations.RenameModel("Segment", "ArchiveFile"),
        migrations.AlterModelTable("Delivery", "switcher_delivery"),
        migrations.RenameModel("Delivery", "CheckpointDelivery"),
    ]
