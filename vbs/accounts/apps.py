from django.apps import AppConfig
from django.db.models.signals import post_migrate


class AccountsConfig(AppConfig):
    name = "vbs.accounts"
    verbose_name = "Projects and keys"

    def ready(self) -> None:
        from vbs.accounts import roles

        post_migrate.connect(roles.grant, dispatch_uid="grant the roles their permissions")
