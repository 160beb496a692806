"""The addresses of what every page needs: signing in and out, and choosing a project."""

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from vbs.pages import views
from vbs.pages.access import strict

urlpatterns = [
    path("login", strict(LoginView.as_view(redirect_authenticated_user=True)), name="login"),
    path("logout", strict(LogoutView.as_view(next_page="login")), name="logout"),
    path("project", views.choose_project, name="project"),
]
