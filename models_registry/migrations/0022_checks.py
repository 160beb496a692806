from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [("models_registry", "0021_remote_servers")]
    operations = [
        migrations.AddField(
            model_name="model",
            name="checked_at",
            field=models.DateTimeField(
                editable=False, help_text="When it was last loaded, or could not be", null=True
            ),
        ),
        migrations.AddField(
            model_name="model",
            name="check_error",
            field=models.TextField(
                db_default="", default="", editable=False, help_text="Why it could not be loaded then; empty where it could"
            ),
        ),
        migrations.AddField(
            model_name="model",
            name="key_secret",
            field=models.TextField(
                db_default="", default="", editable=False, help_text="The key of the remote server, encrypted"
            ),
        ),
        migrations.AddField(
            model_name="operation",
            name="doing",
            field=models.CharField(
                blank=True, db_default="", default="", help_text="What it does now", max_length=200
            ),
        ),
        migrations.AddField(
            model_name="operation",
            name="percent",
            field=models.PositiveSmallIntegerField(
                blank=True, help_text="How far it is, where that is known", null=True
            ),
        ),
        migrations.AddField(
            model_name="worker",
            name="loading_since",
            field=models.DateTimeField(
                blank=True, help_text="When the start that it waits for began", null=True
            ),
        ),
    ]
