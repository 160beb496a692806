"""The addresses of the pages of batches."""

from django.urls import path
from django.views.generic import RedirectView

from batches.pages import queue, queue_views
from vbs import live

urlpatterns = [
    path("queue", RedirectView.as_view(pattern_name="queue")),
    path("queue/", queue_views.queue, name="queue"),
    live.path("queue/live", queue.PAGE, name="queue-live"),
    path("queue/pause", queue_views.pause, name="queue-pause"),
    path("queue/resume", queue_views.resume, name="queue-resume"),
    path("batches/<str:pk>/priority", queue_views.priority, name="batch-priority"),
]
