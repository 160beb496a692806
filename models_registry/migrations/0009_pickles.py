from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0008_unlimited")]

    operations = [
        migrations.AlterField(
            model_name="model",
            name="allow_pickle",
            field=models.BooleanField(
                default=False, help_text="Load weights that are pickles, of which only tensors are read"
            ),
        ),
    ]
