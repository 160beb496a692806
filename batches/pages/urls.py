"""The addresses of the pages of batches."""

from django.urls import URLPattern, path

from batches.pages.batch import page as detail
from batches.pages.batch import views as detail_views
from batches.pages.history import page as history
from batches.pages.history import views as history_views
from batches.pages.new import views as create_views
from batches.pages.overview import page as overview
from batches.pages.overview import views as overview_views
from batches.pages.queue import page as queue
from batches.pages.queue import views as queue_views
from batches.pages.request import views as request_views
from vbs.live import pages as live

urlpatterns: list[URLPattern] = [
    path("", overview_views.index, name="overview"),
    live.path("live", overview.PAGE, name="overview-live"),
    path("queue/", queue_views.queue, name="queue"),
    live.path("queue/live", queue.PAGE, name="queue-live"),
    path("queue/pause", queue_views.pause, name="queue-pause"),
    path("queue/resume", queue_views.resume, name="queue-resume"),
    path("batches/", history_views.batches, name="batches"),
    live.path("batches/live", history.PAGE, name="batches-live"),
    path("batches/new", create_views.new, name="batch-new"),
    path("batches/new/check", create_views.check, name="batch-new-check"),
    path("batches/new/preview", create_views.preview, name="batch-new-preview"),
    path("batches/new/report", create_views.report, name="batch-new-report"),
    path("batches/new/sample.jsonl", create_views.sample_jsonl, name="batch-new-sample-jsonl"),
    path("batches/new/sample.csv", create_views.sample_csv, name="batch-new-sample-csv"),
    path("batches/<str:pk>/", detail_views.batch, name="batch"),
    live.path("batches/<str:pk>/live", detail.PAGE, name="batch-live"),
    path("batches/<str:pk>/cancel", detail_views.cancel, name="batch-cancel"),
    path("batches/<str:pk>/priority", queue_views.priority, name="batch-priority"),
    path("batches/<str:pk>/name", detail_views.name, name="batch-name"),
    path("batches/<str:pk>/retry", detail_views.retry, name="batch-retry"),
    path("batches/<str:pk>/results", detail_views.results, name="batch-results"),
    path("batches/<str:pk>/output", detail_views.output, name="batch-output"),
    path("batches/<str:pk>/errors", detail_views.errors, name="batch-errors"),
    path("batches/<str:pk>/errors.json", detail_views.validation_errors, name="batch-validation-errors"),
    path("batches/<str:pk>/log", detail_views.log, name="batch-log"),
    path("batches/<str:pk>/requests", request_views.requests, name="batch-requests"),
    path("batches/<str:pk>/requests/<int:line>", request_views.request, name="batch-request"),
    path("batches/<str:pk>/requests/<int:line>/playground", request_views.playground, name="batch-request-playground"),
    path("batches/<str:pk>/requests/<int:line>/again", request_views.again, name="batch-request-again"),
    path("batches/<str:pk>/requests/<int:line>/<str:side>", request_views.download, name="batch-request-file"),
]
