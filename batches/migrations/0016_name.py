from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("batches", "0015_formats_of_tables"),
    ]

    operations = [
        migrations.AddField(
            model_name="batch",
            name="name",
            field=models.CharField(
                blank=True, db_default="", default="", help_text="Given, or its file's without the ending", max_length=200
            ),
        ),
    ]
