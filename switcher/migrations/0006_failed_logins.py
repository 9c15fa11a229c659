"""Failed logins, counted under keyed hashes, for lockouts."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("switcher", "0005_subtrees"),
    ]

    operations = [
        migrations.CreateModel(
            name="FailedLogin",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name_key", models.CharField(max_length=64)),
                ("address_key", models.CharField(blank=True, max_length=64)),
                ("failures", models.PositiveIntegerField()),
                ("last_at", models.DateTimeField(db_index=True)),
            ],
            options={
                "indexes": [models.Index(fields=["address_key"], name="failures_by_address")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=["name_key", "address_key"], name="one_count_a_pair"
                    )
                ],
            },
        ),
    ]
