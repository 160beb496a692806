"""The addresses that every page uses."""

from django.urls import path

from vbs.pages import views

urlpatterns = [
    path("project", views.choose_project, name="project"),
    path("jump", views.jump, name="jump"),
    path("favicon.ico", views.icon),
]
