"""The app of what every page shares."""

from django.apps import AppConfig


class PagesConfig(AppConfig):
    name = "vbs.pages"
