from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('switcher', '0020_default_contexts'),
    ]

    operations = [
        migrations.AddField(
            model_name='host',
            name='parallel_requests',
            field=models.PositiveSmallIntegerField(blank=True, null=True),
        ),
    ]
