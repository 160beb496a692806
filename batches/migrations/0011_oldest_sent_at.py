from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("batches", "0010_unlimited"),
    ]

    operations = [
        migrations.AddField(
            model_name="batch",
            name="oldest_sent_at",
            field=models.DateTimeField(null=True, help_text="When the oldest of the requests in flight was sent"),
        ),
    ]
