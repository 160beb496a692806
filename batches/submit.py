"""Create a batch: the same for the API, the pages and the commands."""

from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from batches.models import Batch, File
from vbs.accounts.models import Project
from vbs.broker import wake
from vbs.configuration.limits import seconds


def create(project: Project, input_file_id: str, endpoint: str, completion_window: str, **options: Any) -> Batch:
    """A new batch, which is read at once. A file that is missing is found then, as at OpenAI.

    options: metadata, priority, output_expires_after {seconds}, default_model.
    """
    now = timezone.now()
    batch = Batch(
        project=project,
        input_file_id_given=input_file_id,
        input_file=File.objects.visible(project).filter(pk=input_file_id).first(),
        endpoint=endpoint,
        completion_window=completion_window,
        metadata=options.get("metadata"),
        priority=options.get("priority") or 0,
        default_model=options.get("default_model") or "",
        output_seconds=(options.get("output_expires_after") or {}).get("seconds"),
        created_at=now,
        expires_at=now + timedelta(seconds=seconds(completion_window)),
    )
    with transaction.atomic():
        batch.save(force_insert=True)
        batch.note(f"Created for {endpoint} with priority {batch.priority}.")
        wake("validate", batch.pk)
    return batch
