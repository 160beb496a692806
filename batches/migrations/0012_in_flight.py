from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("batches", "0011_oldest_sent_at"),
    ]

    operations = [
        migrations.AddField(
            model_name="batch",
            name="in_flight",
            field=models.PositiveIntegerField(null=True, help_text="Requests that were sent and have no answer here yet"),
        ),
    ]
