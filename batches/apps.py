"""What batches register: their tasks, their part of the upkeep, and themselves as work for the GPU."""

from django.apps import AppConfig


class BatchesConfig(AppConfig):
    name = "batches"

    def ready(self) -> None:
        from batches import checks, metrics, sweep  # noqa: F401  (the checks register themselves)
        from batches.files import disk_use
        from batches.pages.jump import batches
        from batches.run.workload import BatchesWorkload
        from models_registry import workloads
        from models_registry.catalog import disk
        from vbs import tasks, upkeep
        from vbs.pages import jump

        metrics.register()
        tasks.register("validate", "batches.tasks.validate")
        tasks.register("finalize", "batches.tasks.finalize")
        tasks.register("index", "batches.tasks.index")
        workloads.register(BatchesWorkload())
        upkeep.register(*sweep.PARTS)
        jump.register(batches)
        disk.PLACES.append(disk_use.files)
        disk.CLEANERS.insert(0, disk_use.CLEANER)
