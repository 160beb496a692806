from django.apps import AppConfig


class ModelsRegistryConfig(AppConfig):
    name = "models_registry"
    verbose_name = "Models and workers"

    def ready(self) -> None:
        from models_registry import metrics
        from models_registry.gpu import arbiter, operations
        from models_registry.gpu.operating import OperationSource
        from models_registry.hub import downloads
        from models_registry.pages import rows
        from vbs.pages import recipes

        arbiter.connect()
        metrics.register()
        arbiter.register(OperationSource())
        arbiter.RELEASES.append(operations.release_all)
        arbiter.SWEEPS += [operations.sweep, downloads.sweep]
        recipes.MODELS.append(rows.that_chat)
