from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("models_registry", "0007_trust_model"),
    ]

    operations = [
        migrations.AddField(
            model_name="measurement",
            name="unlimited",
            field=models.PositiveIntegerField(default=0, help_text="Of the answered, those that had no limit"),
        ),
        migrations.AddField(
            model_name="measurement",
            name="unlimited_tokens",
            field=models.BigIntegerField(default=0, help_text="That these wrote"),
        ),
    ]
