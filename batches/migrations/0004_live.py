from django.db import migrations

from vbs.live import topics


class Migration(migrations.Migration):
    dependencies = [("batches", "0003_activity_and_pauses"), ("configuration", "0002_live")]
    operations = [
        topics.triggers("batches_batch", "batches", "batch:id"),
        topics.triggers("batches_batchevent", "batch:batch_id"),
        topics.triggers("batches_pause", "batches"),
    ]
