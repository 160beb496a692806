"""What the registry registers: its tasks, its part of the upkeep, and operations as work for the GPU."""

from django.apps import AppConfig


class ModelsRegistryConfig(AppConfig):
    name = "models_registry"
    verbose_name = "Models and workers"

    def ready(self) -> None:
        from models_registry import metrics, workloads
        from models_registry.gpu import operations, worker_process
        from models_registry.gpu.operation_kinds import OperationsWorkload
        from models_registry.hub import downloads
        from models_registry.pages.jump import models as models_to_jump_to
        from models_registry.pages.models import page as models
        from models_registry.serving import forwarder, usage
        from models_registry.serving.ledger import ledger
        from vbs import tasks, upkeep
        from vbs.http import later
        from vbs.pages import jump, recipes

        worker_process.connect()
        worker_process.AT_START.append(forwarder.start)
        metrics.register()
        tasks.register("gpu", "models_registry.tasks.work", cluster="gpu")
        tasks.register("fetch", "models_registry.tasks.fetch")
        workloads.register(OperationsWorkload())
        upkeep.register(operations.sweep, downloads.sweep, worker_process.forget_the_dead, usage.purge)
        later.at_end(ledger.write_and_close)
        recipes.MODELS.append(models.names_for_chat)
        jump.register(models_to_jump_to)
