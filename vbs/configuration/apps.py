from django.apps import AppConfig


class ConfigurationConfig(AppConfig):
    name = "vbs.configuration"
    verbose_name = "Configuration"
