"""Turn the trail into a ledger: chained, with the columns to search by in a table of their own.

Entries that were written before are added to the chain as they are, in their order.
"""

import json

import django.db.models.deletion
from django.db import migrations, models

from switcher.audit.verifier.switchboard_verify import GENESIS, leaf

AROUND = {"actor", "at", "host", "kind", "reason", "source", "switch"}


def chain(apps, schema_editor):
    from switcher.audit.ledger import canonical, stamp
    from switcher.audit.ledger_reader import derived_columns

    old = apps.get_model("switcher", "OldAuditEntry")
    row_model = apps.get_model("switcher", "LedgerRow")
    entry_model = apps.get_model("switcher", "AuditEntry")
    prev, seq = GENESIS, 0
    for entry in old.objects.order_by("id").iterator():
        told = json.loads(entry.body)
        seq += 1
        facts = {k: v for k, v in told.items() if k not in AROUND}
        reason = str(told.get("reason") or "")
        body = canonical(
            {
                "actor": entry.actor,
                "at": stamp(entry.at),
                "facts": facts,
                "from": {},
                "host": entry.host,
                "kind": entry.kind,
                "reason": reason,
                "seq": seq,
                "source": str(told.get("source") or ""),
                "switch": entry.switch_id,
                "v": 2,
            }
        )
        made = leaf(prev, body)
        row_model.objects.create(seq=seq, body=body, prev=prev, hash=made)
        entry_model.objects.create(
            seq=seq,
            at=entry.at,
            kind=entry.kind,
            actor=entry.actor,
            host=entry.host,
            switch_id=entry.switch_id,
            **derived_columns(entry.kind, reason, facts),
        )
        prev = made


class Migration(migrations.Migration):
    dependencies = [
        ("switcher", "0003_gateway"),
    ]

    operations = [
        migrations.RemoveIndex(model_name="auditentry", name="entry_by_kind"),
        # Its index would keep its name, which the new table's needs.
        migrations.AlterField(
            model_name="auditentry",
            name="switch",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="switcher.switchevent",
            ),
        ),
        migrations.RenameModel("AuditEntry", "OldAuditEntry"),
        migrations.CreateModel(
            name="LedgerRow",
            fields=[
                ("seq", models.BigIntegerField(primary_key=True, serialize=False)),
                ("body", models.TextField()),
                ("prev", models.BinaryField(max_length=32)),
                ("hash", models.BinaryField(max_length=32)),
            ],
        ),
        migrations.CreateModel(
            name="Review",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("seq", models.BigIntegerField(db_index=True)),
                ("by", models.CharField(max_length=150)),
                ("at", models.DateTimeField()),
                ("note", models.CharField(blank=True, max_length=500)),
            ],
            options={
                "ordering": ["-id"],
            },
        ),
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
                ("last", models.BigIntegerField()),
                ("name", models.CharField(max_length=100)),
                ("sha256", models.CharField(max_length=64)),
                ("prev", models.CharField(max_length=64)),
                ("tree", models.TextField()),
                ("at", models.DateTimeField()),
            ],
            options={
                "ordering": ["first"],
            },
        ),
        migrations.AddField(
            model_name="origin",
            name="erased_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="origin",
            name="salt",
            field=models.BinaryField(default=bytes, max_length=16),
        ),
        migrations.CreateModel(
            name="AuditEntry",
            fields=[
                ("seq", models.BigIntegerField(primary_key=True, serialize=False)),
                ("at", models.DateTimeField()),
                ("kind", models.CharField(max_length=40)),
                ("actor", models.CharField(max_length=150)),
                ("host", models.CharField(blank=True, max_length=40)),
                ("model", models.CharField(blank=True, max_length=200)),
                ("outcome", models.CharField(blank=True, max_length=12)),
                ("reason", models.CharField(blank=True, max_length=500)),
                (
                    "origin",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.PROTECT, to="switcher.origin"
                    ),
                ),
                (
                    "switch",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="entries",
                        to="switcher.switchevent",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "audit entries",
                "ordering": ["-seq"],
            },
        ),
        migrations.CreateModel(
            name="Checkpoint",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("size", models.BigIntegerField()),
                ("note", models.TextField()),
                ("tree", models.TextField()),
                ("at", models.DateTimeField()),
            ],
            options={
                "ordering": ["-id"],
                "indexes": [models.Index(fields=["size"], name="checkpoint_by_size")],
            },
        ),
        migrations.CreateModel(
            name="Delivery",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("sink", models.CharField(max_length=20)),
                ("tries", models.PositiveIntegerField(default=0)),
                ("next_at", models.DateTimeField()),
                ("error", models.CharField(blank=True, max_length=300)),
                ("delivered_at", models.DateTimeField(null=True)),
                (
                    "checkpoint",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="deliveries",
                        to="switcher.checkpoint",
                    ),
                ),
            ],
        ),
        migrations.RunPython(chain, migrations.RunPython.noop),
        migrations.DeleteModel(
            name="OldAuditEntry",
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["kind", "-seq"], name="entry_by_kind"),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["actor", "-seq"], name="entry_by_actor"),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["host", "-seq"], name="entry_by_host"),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["model", "-seq"], name="entry_by_model"),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(
                condition=models.Q(("outcome", ""), _negated=True),
                fields=["outcome", "-seq"],
                name="entry_by_outcome",
            ),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["at"], name="entry_by_time"),
        ),
        migrations.AddIndex(
            model_name="delivery",
            index=models.Index(
                condition=models.Q(("delivered_at", None)), fields=["next_at"], name="delivery_due"
            ),
        ),
        migrations.AddConstraint(
            model_name="delivery",
            constraint=models.UniqueConstraint(
                fields=("checkpoint", "sink"), name="delivered_once"
            ),
        ),
    ]
