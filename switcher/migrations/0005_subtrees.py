"""Subtrees of the Merkle tree for proofs, and an index of what was active when."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("switcher", "0004_ledger"),
    ]

    operations = [
        migrations.CreateModel(
            name="Subtree",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("hash", models.BinaryField(max_length=32)),
            ],
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(
                condition=models.Q(("kind", "host.activated")),
                fields=["host", "-seq"],
                name="entry_activated",
            ),
        ),
    ]
