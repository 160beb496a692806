"""The app of what all pages share."""

from django.apps import AppConfig


class PagesConfig(AppConfig):
    name = "vbs.pages"
