from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0019_worker_url")]
    operations = [
        migrations.AlterModelOptions(
            name="model",
            options={
                "ordering": ["name"],
                "permissions": [
                    ("trust_model", "Can have code run that comes with a model"),
                    ("use_playground", "Can ask models in the playground"),
                ],
            },
        )
    ]
