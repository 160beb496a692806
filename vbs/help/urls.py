"""The addresses of the documents."""

from django.urls import path

from vbs.help import views

urlpatterns = [
    path("docs", views.reference, name="reference"),
    path("help/", views.start, name="help"),
    path("help/parts", views.parts, name="help-parts"),
    path("help/<slug:name>", views.document, name="help-document"),
]
