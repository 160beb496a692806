from django.apps import AppConfig


class BatchesConfig(AppConfig):
    name = "batches"

    def ready(self) -> None:
        from batches import checks, metrics  # noqa: F401  (the checks register themselves)
        from batches.files import disk_use
        from batches.models import Batch
        from batches.run import claims, interrupts
        from batches.run.runner import BatchSource
        from models_registry.catalog import disk, remove
        from models_registry.gpu import arbiter, control
        from vbs.live import topics

        metrics.register()
        remove.BLOCKERS.append(Batch.objects.that_need)
        arbiter.register(BatchSource())
        arbiter.RELEASES.append(claims.release_all)
        arbiter.SWEEPS.append(topics.sweep)
        control.RUNNING.append(interrupts.of)
        disk.PLACES.append(disk_use.files)
        disk.CLEANERS.insert(0, disk_use.CLEANER)
