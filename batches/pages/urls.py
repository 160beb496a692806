"""The addresses of the pages of batches."""

from django.urls import URLPattern, path

from batches.pages import create_views

urlpatterns: list[URLPattern] = [
    path("batches/new", create_views.new, name="batch-new"),
    path("batches/new/check", create_views.check, name="batch-new-check"),
    path("batches/new/report", create_views.report, name="batch-new-report"),
    path("batches/new/sample.jsonl", create_views.sample_jsonl, name="batch-new-sample-jsonl"),
    path("batches/new/sample.csv", create_views.sample_csv, name="batch-new-sample-csv"),
]
