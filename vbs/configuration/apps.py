"""The app of the settings and of the audit log."""

from django.apps import AppConfig


class ConfigurationConfig(AppConfig):
    name = "vbs.configuration"
    verbose_name = "Configuration"
