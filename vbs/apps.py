"""What the server itself registers: its checks, the upkeep and its task, and the admin's site."""

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class VbsConfig(AppConfig):
    name = "vbs"

    def ready(self) -> None:
        from vbs import checks, tasks, upkeep  # noqa: F401  (the checks register themselves)
        from vbs.help.jump import documents
        from vbs.live import topics
        from vbs.openai import idempotency
        from vbs.pages import jump

        tasks.register("sweep", "vbs.upkeep.task")
        upkeep.register(idempotency.purge, upkeep.remove_old_temporary_files, topics.sweep)
        jump.register(documents, last=True)


class AdminConfig(admin_apps.AdminConfig):
    """Django's admin with our site; it is named in INSTALLED_APPS in the place of Django's."""

    default = False
    default_site = "vbs.admin.site.Site"
