from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "vbs.accounts"
    verbose_name = "Projects and keys"
