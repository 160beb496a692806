from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("batches", "0009_by_project_and_status"),
    ]

    operations = [
        migrations.AddField(
            model_name="batch",
            name="unlimited",
            field=models.PositiveIntegerField(default=0, help_text="Requests that set no limit to their answers"),
        ),
    ]
