"""Gives the roles their permissions at each migration, and records in the audit log who signs in and out."""

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db.models.signals import post_migrate


class AccountsConfig(AppConfig):
    name = "vbs.accounts"
    verbose_name = "Projects and keys"

    def ready(self) -> None:
        from vbs.accounts import roles
        from vbs.accounts.pages import sign_in

        post_migrate.connect(roles.grant, dispatch_uid="grant the roles their permissions")
        user_logged_in.connect(sign_in.on_signed_in, dispatch_uid="keep who signs in")
        user_logged_out.connect(sign_in.on_signed_out, dispatch_uid="keep who signs out")
