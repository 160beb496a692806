from django.db import migrations, models

# Of batches that have expired before, it is what their rows say, while these are kept.
COUNT = """
UPDATE batches_batch batch SET not_run = expired.count
FROM (SELECT batch_id, count(*) FROM batches_batchrequest WHERE state = 3 GROUP BY batch_id) expired
WHERE batch.id = expired.batch_id
"""


class Migration(migrations.Migration):
    dependencies = [
        ("batches", "0004_live"),
    ]

    operations = [
        migrations.AddField(
            model_name="batch",
            name="not_run",
            field=models.PositiveIntegerField(
                default=0, help_text="Of the failed, those without an answer because it expired or was cancelled"
            ),
        ),
        migrations.AlterField(
            model_name="batchrequest",
            name="state",
            field=models.SmallIntegerField(
                choices=[(0, "Pending"), (1, "Completed"), (2, "Failed"), (3, "Expired"), (4, "Cancelled")], default=0
            ),
        ),
        migrations.RunSQL(COUNT, migrations.RunSQL.noop),
    ]
