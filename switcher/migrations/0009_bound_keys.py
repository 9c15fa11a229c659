"""Whether a key is bound is written down by itself: until now an empty list meant all."""

from django.db import migrations, models


def open_what_was_open(apps, schema_editor):
    """No list meant all; whoever has one stays bound to it."""
    keys = apps.get_model("switcher", "ApiKey").objects
    keys.filter(hosts=None).update(all_hosts=True)
    keys.filter(profiles=None).update(all_profiles=True)


class Migration(migrations.Migration):

    dependencies = [
        ('switcher', '0008_published_name'),
    ]

    operations = [
        migrations.AddField(
            model_name='apikey',
            name='all_hosts',
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name='apikey',
            name='all_profiles',
            field=models.BooleanField(default=False),
        ),
        migrations.RunPython(open_what_was_open, migrations.RunPython.noop),
    ]
