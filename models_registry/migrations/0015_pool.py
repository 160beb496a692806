from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0014_score_task")]
    operations = [
        migrations.AddField(
            model_name="model",
            name="pool",
            field=models.JSONField(
                blank=True, db_default=[], default=list, help_text="URLs of further remote servers that serve the same"
            ),
        ),
        migrations.AddField(
            model_name="worker",
            name="lanes",
            field=models.JSONField(
                blank=True, db_default=[], default=list, help_text="The remote models that it runs at present"
            ),
        ),
    ]
