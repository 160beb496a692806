from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("models_registry", "0009_pickles"),
    ]

    operations = [
        migrations.AddField(
            model_name="worker",
            name="version",
            field=models.CharField(blank=True, max_length=40, help_text="Of vbs, that it runs"),
        ),
        migrations.AddField(
            model_name="operation",
            name="worker",
            field=models.UUIDField(blank=True, null=True, help_text="The one that is to do it; any, where there is none"),
        ),
    ]
