from django.apps import AppConfig


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
