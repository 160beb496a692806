from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("batches", "0014_in_flight_seconds"),
    ]

    operations = [
        migrations.AlterField(
            model_name="file",
            name="format",
            field=models.CharField(
                choices=[("jsonl", "Jsonl"), ("csv", "Csv"), ("xlsx", "Xlsx"), ("rows", "Rows"), ("other", "Other")],
                help_text="What the bytes are",
                max_length=10,
            ),
        ),
    ]
