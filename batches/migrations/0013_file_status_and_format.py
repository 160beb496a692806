import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

# What nobody saw yet looked like what had been deleted: nobody goes on with it after an update, so that it goes as well.
# In one statement, for a table whose rows have been changed twice cannot be altered in the same transaction.
FILL = r"""
UPDATE batches_file
SET status = CASE WHEN deleted_at IS NULL THEN 'available' ELSE 'deleted' END,
    format = CASE WHEN purpose IN ('batch', 'batch_output', 'fine-tune') THEN 'jsonl'
                  WHEN lower(filename) ~ '\.(csv|tsv)$' THEN 'csv'
                  WHEN lower(filename) ~ '\.(jsonl|ndjson)$' THEN 'jsonl'
                  ELSE 'other' END
WHERE deleted_at IS NOT NULL OR purpose NOT IN ('batch', 'batch_output', 'fine-tune')
"""


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("batches", "0012_in_flight"),
    ]

    operations = [
        migrations.AddField(
            model_name="file",
            name="status",
            field=models.CharField(
                choices=[("pending", "Pending"), ("available", "Available"), ("deleted", "Deleted")],
                default="available",
                max_length=10,
            ),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="file",
            name="format",
            field=models.CharField(
                choices=[("jsonl", "Jsonl"), ("csv", "Csv"), ("other", "Other")],
                default="jsonl",
                help_text="What the bytes are",
                max_length=10,
            ),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="file",
            name="created_by",
            field=models.ForeignKey(
                blank=True,
                help_text="Who made it in the browser",
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
        migrations.AddConstraint(
            model_name="file",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("deleted_at", None), ("expires_at__isnull", False), ("status", "pending")),
                    models.Q(("deleted_at", None), ("status", "available")),
                    models.Q(("deleted_at__isnull", False), ("status", "deleted")),
                    _connector="OR",
                ),
                name="file_times_of_status",
            ),
        ),
    ]
