"""Add columns to segments. No segment was ever made before this, so the table is created anew."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("switcher", "0006_failed_logins"),
    ]

    operations = [
        migrations.DeleteModel(name="Segment"),
        migrations.CreateModel(
            name="Segment",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("first", models.BigIntegerField()),
                ("last", models.BigIntegerField(unique=True)),
                ("last_at", models.DateTimeField()),
                ("name", models.CharField(max_length=100)),
                ("size", models.BigIntegerField()),
                ("sha256", models.CharField(max_length=64)),
                ("prev", models.CharField(max_length=64)),
                ("tree", models.TextField()),
                ("rotations", models.JSONField(default=list)),
                ("entry", models.BigIntegerField()),
                ("at", models.DateTimeField()),
            ],
            options={"ordering": ["first"]},
        ),
    ]
