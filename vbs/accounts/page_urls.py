"""The addresses of the pages of keys, people and projects, and of what people did."""

from django.urls import path

from vbs.accounts import key_page, key_views, people_views
from vbs.configuration import audit_views
from vbs.live import pages as live

urlpatterns = [
    path("system/keys", key_views.keys, name="keys"),
    live.path("system/keys/live", key_page.PAGE, name="keys-live"),
    path("system/keys/<int:pk>/edit", key_views.edit, name="key-edit"),
    path("system/keys/<int:pk>/revoke", key_views.revoke, name="key-revoke"),
    path("system/people", people_views.people, name="people"),
    path("system/people/<int:pk>/", people_views.person, name="person"),
    path("system/people/<int:pk>/password", people_views.password, name="person-password"),
    path("system/people/<int:pk>/active", people_views.active, name="person-active"),
    path("system/projects", people_views.add_project, name="project-add"),
    path("system/projects/<int:pk>/", people_views.project, name="project-edit"),
    path("system/audit", audit_views.audit_log, name="audit"),
]
