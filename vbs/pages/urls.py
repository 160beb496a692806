"""The addresses of what every page needs: signing in and out, and choosing a project."""

from django.contrib.auth.views import LogoutView
from django.urls import path

from vbs.accounts.sign_in import SignIn, admin_sign_in
from vbs.pages import views
from vbs.pages.access import strict

urlpatterns = [
    path("login", strict(SignIn.as_view()), name="login"),
    path("admin/login/", strict(admin_sign_in)),
    path("logout", strict(LogoutView.as_view(next_page="login")), name="logout"),
    path("project", views.choose_project, name="project"),
]
