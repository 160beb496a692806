from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("batches", "0017_search_by_name"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="batchrequest",
            index=models.Index(condition=models.Q(("state", 2)), fields=["batch", "line"], name="request_failed"),
        ),
    ]
