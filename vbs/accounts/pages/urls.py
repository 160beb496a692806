"""The addresses of signing in and out, and of the pages of keys, people and projects."""

from django.contrib.auth.views import LogoutView
from django.urls import path

from vbs.accounts.pages import key_page, key_views, people_views
from vbs.accounts.pages.sign_in import SignIn, admin_sign_in
from vbs.live import pages as live
from vbs.pages.access import strict

urlpatterns = [
    path("login", strict(SignIn.as_view()), name="login"),
    path("admin/login/", strict(admin_sign_in)),
    path("logout", strict(LogoutView.as_view(next_page="login")), name="logout"),
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
]
