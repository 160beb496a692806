from django.apps import AppConfig


class VbsConfig(AppConfig):
    name = "vbs"

    def ready(self) -> None:
        from vbs import checks  # noqa: F401
