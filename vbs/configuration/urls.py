"""The addresses of the pages of settings."""

from django.urls import path

from vbs.configuration import pages, views
from vbs.live import pages as live

urlpatterns = [
    path("system/settings", views.settings, name="settings"),
    live.path("system/settings/live", pages.PAGE, name="settings-live"),
    path("system/settings/<str:name>", views.setting, name="setting"),
    path("system/settings/<str:name>/reset", views.reset, name="setting-reset"),
]
