from django.db import migrations

from vbs import live


class Migration(migrations.Migration):
    dependencies = [("batches", "0003_activity_and_pauses"), ("configuration", "0002_live")]
    operations = [
        live.triggers("batches_batch", "batches", "batch:id"),
        live.triggers("batches_batchevent", "batch:batch_id"),
        live.triggers("batches_pause", "batches"),
    ]
