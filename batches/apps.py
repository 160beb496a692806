from typing import Any

from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate


class BatchesConfig(AppConfig):
    name = "batches"

    def ready(self) -> None:
        from batches import checks, disk_use, interrupts, metrics  # noqa: F401
        from batches.models import Batch
        from batches.runner import BatchSource
        from models_registry import disk, gpu, importer, workers
        from vbs import live

        metrics.register()
        importer.BLOCKERS.append(Batch.objects.that_need)
        gpu.register(BatchSource())
        gpu.RELEASES.append(Batch.objects.release_all)
        gpu.SWEEPS.append(live.sweep)
        workers.RUNNING.append(interrupts.of)
        disk.PLACES.append(disk_use.files)
        disk.CLEANERS.insert(0, disk_use.CLEANER)
        post_migrate.connect(schedule_the_sweep, sender=self, dispatch_uid="schedule the sweep")


def schedule_the_sweep(using: str, apps: Any = apps, **signal: Any) -> None:
    """The sweep's row in django-q2's schedule. After each migrate, not once in a migration: a row that was deleted,
    or set far ahead by a clock that jumped, is right again with the next start."""
    from django.utils import timezone

    try:
        schedule = apps.get_model("django_q", "Schedule")
    except LookupError:  # only some apps have been migrated so far
        return
    row = {"func": "batches.tasks.sweep", "schedule_type": "I", "minutes": 1, "repeats": -1, "cluster": "io"}
    schedule.objects.using(using).update_or_create(name="sweep", defaults=row | {"next_run": timezone.now()})
