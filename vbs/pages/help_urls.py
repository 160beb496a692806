"""The addresses of the documents."""

from django.urls import path
from django.views.generic import RedirectView

from vbs.pages import help_views

urlpatterns = [
    path("help", RedirectView.as_view(pattern_name="help")),
    path("help/", help_views.start, name="help"),
    path("help/<slug:name>", help_views.document, name="help-document"),
]
