"""Rename two models and one field in the code. The tables keep their names, so no data is
rewritten."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("switcher", "0009_bound_keys")]

    operations = [
        migrations.AlterModelTable("Handle", "switcher_handle"),
        migrations.RenameModel("Handle", "ModelCopy"),
        migrations.AlterModelTable("Preload", "switcher_preload"),
        migrations.RenameModel("Preload", "Pin"),
        migrations.RenameField("Host", "preloaded", "pinned"),
        migrations.AlterField(
            "Host",
            "pinned",
            models.ManyToManyField(
                blank=True,
                related_name="pinned_on",
                through="switcher.Pin",
                to="switcher.modelprofile",
            ),
        ),
        migrations.AlterField(
            "ModelCopy",
            "host",
            models.ForeignKey(
                on_delete=models.CASCADE, related_name="model_copies", to="switcher.host"
            ),
        ),
    ]
