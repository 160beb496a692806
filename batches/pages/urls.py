"""The addresses of the pages of batches."""

from django.urls import URLPattern, path

from batches.pages import history, history_views, overview, overview_views, request_views
from vbs import live

urlpatterns: list[URLPattern] = [
    path("", overview_views.show, name="overview"),
    live.path("live", overview.PAGE, name="overview-live"),
    path("batches/", history_views.batches, name="batches"),
    live.path("batches/live", history.HISTORY, name="batches-live"),
    path("batches/<str:pk>/requests", request_views.requests, name="batch-requests"),
    path("batches/<str:pk>/requests/<int:line>", request_views.request, name="batch-request"),
    path("batches/<str:pk>/requests/<int:line>/<str:side>", request_views.download, name="batch-request-file"),
]
