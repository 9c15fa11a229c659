from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('switcher', '0017_cut_prompts'),
    ]

    operations = [
        migrations.AddField(
            model_name='apikey',
            name='fallback',
            field=models.JSONField(default=list),
        ),
        migrations.AddField(
            model_name='usage',
            name='fallbacks',
            field=models.PositiveBigIntegerField(default=0),
        ),
    ]
