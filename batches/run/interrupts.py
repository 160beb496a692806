"""What of batches a worker does, in words for whoever wants to restart it."""

from collections.abc import Iterator

from django.db.models.functions import Now

from batches.models import Batch
from models_registry.models import Worker
from vbs.pages.viewer import Viewer


def of(worker: Worker, viewer: Viewer) -> Iterator[str]:
    for batch in Batch.objects.filter(leased_by=worker.pk, leased_until__gte=Now()).order_by("id")[:10]:
        name = batch.pk if viewer.sees(batch.project_id) else "a batch of another project"
        done = batch.completed + batch.failed
        progress = f", {done:,} of {batch.total:,} requests done" if batch.total else ""
        yield f"It runs {name} ({batch.get_status_display()}{progress}), which goes on afterwards where it was."
