from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('switcher', '0022_pinned_digests'),
    ]

    operations = [
        migrations.AddField(
            model_name='host',
            name='sizes_since',
            field=models.DateTimeField(null=True),
        ),
    ]
