"""The addresses of the pages of batches."""

from django.urls import URLPattern, path

from batches.pages import request_views

urlpatterns: list[URLPattern] = [
    path("batches/<str:pk>/requests", request_views.requests, name="batch-requests"),
    path("batches/<str:pk>/requests/<int:line>", request_views.request, name="batch-request"),
    path("batches/<str:pk>/requests/<int:line>/<str:side>", request_views.download, name="batch-request-file"),
]
