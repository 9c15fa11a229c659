"""Store in columns of their own whether a key is for all hosts and all profiles: until now, an
empty list meant all."""

from django.db import migrations, models


def open_what_was_open(apps, schema_editor):
    """Keep keys without a list open for all; keys with a list stay bound to it."""
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
