from django.apps import AppConfig


class ModelsRegistryConfig(AppConfig):
    name = "models_registry"
    verbose_name = "Models and workers"

    def ready(self) -> None:
        from models_registry import gpu

        gpu.connect()
