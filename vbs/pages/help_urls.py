"""The addresses of the documents."""

from django.urls import path

from vbs.pages import help_views

urlpatterns = [
    path("help/", help_views.start, name="help"),
    path("help/<slug:name>", help_views.document, name="help-document"),
]
