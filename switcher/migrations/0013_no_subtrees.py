"""Drops the stored parts of the Merkle tree: proofs are made from checkpoints and entries alone.

Nothing is lost, as they were derived. An earlier version makes them again after a reverse migration.
"""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("switcher", "0012_cloud_models_and_limits")]

    operations = [migrations.DeleteModel("Subtree")]
