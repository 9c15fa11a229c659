from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('switcher', '0019_wake_on_lan'),
    ]

    operations = [
        migrations.AddField(
            model_name='learnedsize',
            name='by_default',
            field=models.BooleanField(default=False),
        ),
    ]
