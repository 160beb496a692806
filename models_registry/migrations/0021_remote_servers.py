from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0020_playground")]
    operations = [
        migrations.AddField(
            model_name="model",
            name="server_asked_at",
            field=models.DateTimeField(
                blank=True, help_text="When its remote server was asked last; empty until it is", null=True
            ),
        ),
        migrations.AddField(
            model_name="model",
            name="server_failed_at",
            field=models.DateTimeField(
                blank=True, help_text="Since when its remote server fails; empty while it answers", null=True
            ),
        ),
        migrations.AddField(
            model_name="model",
            name="server_failure",
            field=models.TextField(
                blank=True, db_default="", default="", help_text="Why, and what to do; it may name the server's address"
            ),
        ),
        migrations.AddField(
            model_name="model",
            name="server_failure_public",
            field=models.TextField(
                blank=True, db_default="", default="", help_text="The same in words that everybody may read"
            ),
        ),
    ]
