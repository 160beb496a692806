"""Creates a batch, for the API, the pages and the commands alike."""

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from batches.models import MOST_NAME, Batch, File, FileFormat, FileStatus
from vbs.accounts.models import Project
from vbs.broker import wake
from vbs.configuration.windows import seconds


def create(project: Project, input_file_id: str, endpoint: str, completion_window: str, **options: Any) -> Batch:
    """Create a batch and have it validated, which also finds a missing file, as OpenAI does. options: as of `draft`."""
    return save(draft(project, input_file_id, endpoint, completion_window, **options))


def draft(project: Project, input_file_id: str, endpoint: str, completion_window: str, **options: Any) -> Batch:
    """A batch that is not saved yet.

    options: name, metadata, priority, output_expires_after {seconds}, default_model, created_by: who
    made it in the browser.
    """
    now = timezone.now()
    return Batch(
        name=options.get("name") or "",
        project=project,
        input_file_id_given=input_file_id,
        input_file=File.objects.visible(project).filter(pk=input_file_id).first(),
        endpoint=endpoint,
        completion_window=completion_window,
        metadata=options.get("metadata"),
        priority=options.get("priority") or 0,
        default_model=options.get("default_model") or "",
        created_by=options.get("created_by") or "",
        output_seconds=(options.get("output_expires_after") or {}).get("seconds"),
        created_at=now,
        expires_at=now + timedelta(seconds=seconds(completion_window)),
    )


def save(batch: Batch) -> Batch:
    """Save a draft as a batch, and have it validated. Without a name it gets its file's."""
    if not batch.name and batch.input_file:
        batch.name = batch.input_file.stem[:MOST_NAME]
    with transaction.atomic():
        batch.save(force_insert=True)
        batch.note(f"Created for {batch.endpoint} with priority {batch.priority}.")
        wake("validate", batch.pk)
    return batch


class NoFile(LookupError):
    """The input file has been removed or deleted, or belongs to somebody else."""


def create_once(
    usable: QuerySet[File], project: Project, input_file_id: str, since: datetime, created_by: str, **options: Any
) -> tuple[Batch, bool]:
    """Create a batch from one of the files that the caller may use; the file is available from then on.

    If the same person has created a batch from it since `since`, returns that one and False, so that a form that is
    sent twice makes one batch. Raises NoFile.
    """
    with transaction.atomic():
        file = usable.select_for_update().filter(pk=input_file_id, format=FileFormat.JSONL).first()
        if file is None:
            raise NoFile(input_file_id)
        if made := Batch.objects.filter(input_file=file, created_by=created_by, created_at__gte=since).first():
            return made, False
        if file.status == FileStatus.PENDING:
            file.publish(project=project)
        elif file.project_id != project.pk:
            raise NoFile(input_file_id)
        return create(project, file.pk, created_by=created_by, **options), True
