from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("batches", "0018_failed_requests")]
    operations = [
        migrations.AddField(
            model_name="batch",
            name="deaths",
            field=models.PositiveSmallIntegerField(
                db_default=0, default=0, help_text="Engine deaths that a pending request of it has seen; the most"
            ),
        ),
    ]
