"""The addresses of the pages of settings, and of what people did."""

from django.urls import path

from vbs.configuration.pages import audit_views, page, views
from vbs.live import pages as live

urlpatterns = [
    path("system/audit", audit_views.audit_log, name="audit"),
    path("system/settings", views.settings, name="settings"),
    live.path("system/settings/live", page.PAGE, name="settings-live"),
    path("system/settings/<str:name>", views.setting, name="setting"),
    path("system/settings/<str:name>/reset", views.reset, name="setting-reset"),
]
