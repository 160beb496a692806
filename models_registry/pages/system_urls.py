"""The addresses of the pages of the system."""

from django.urls import path

from models_registry.pages import system, system_log, system_views
from vbs.live import pages as live

urlpatterns = [
    path("system/", system_views.index, name="system"),
    live.path("system/live", system.PAGE, name="system-live"),
    path("system/log", system_views.log, name="system-log"),
    live.path("system/log/live", system_log.PAGE, name="system-log-live"),
    path("system/log/whole", system_views.download, name="system-log-whole"),
    path("system/disk", system_views.clean, name="system-disk"),
    path("system/workers/<uuid:pk>/restart", system_views.restart, name="worker-restart"),
    path("system/workers/<uuid:pk>/engine", system_views.engine, name="worker-engine"),
    path("system/workers/<uuid:pk>/free", system_views.free, name="worker-free"),
]
