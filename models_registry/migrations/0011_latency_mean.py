from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("models_registry", "0010_named_workers"),
    ]

    operations = [
        migrations.AddField(
            model_name="measurement",
            name="latency_mean",
            field=models.FloatField(null=True),
        ),
    ]
