from django.apps import AppConfig


class ModelsRegistryConfig(AppConfig):
    name = "models_registry"
    verbose_name = "Models and workers"

    def ready(self) -> None:
        from models_registry import fetch, gpu, metrics, operations, pages
        from models_registry.operating import OperationSource
        from vbs.pages import recipes

        gpu.connect()
        metrics.register()
        gpu.register(OperationSource())
        gpu.RELEASES.append(operations.release_all)
        gpu.SWEEPS += [operations.sweep, fetch.sweep]
        recipes.MODELS.append(pages.that_chat)
