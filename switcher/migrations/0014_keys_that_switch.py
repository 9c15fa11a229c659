from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('switcher', '0013_no_subtrees'),
    ]

    operations = [
        migrations.AddField(
            model_name='apikey',
            name='may_switch',
            field=models.BooleanField(default=False),
        ),
    ]
