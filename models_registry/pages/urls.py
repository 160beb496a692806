"""The addresses of the pages of models."""

from django.urls import path

from models_registry.pages import model_page, models_page, views
from vbs.live import pages as live

urlpatterns = [
    path("models/", views.models, name="models"),
    live.path("models/live", models_page.PAGE, name="models-live"),
    path("models/read", views.read, name="models-read"),
    path("models/plan", views.plan, name="models-plan"),
    path("models/add", views.add, name="models-add"),
    path("models/<int:pk>/", views.model, name="model"),
    live.path("models/<int:pk>/live", model_page.PAGE, name="model-live"),
    path("models/<int:pk>/act", views.act, name="model-act"),
    path("models/<int:pk>/run", views.run, name="model-run"),
    path("models/<int:pk>/fit", views.fit, name="model-fit"),
    path("models/<int:pk>/edit", views.edit, name="model-edit"),
    path("models/<int:pk>/alias", views.alias, name="model-alias"),
    path("models/<int:pk>/remove", views.remove, name="model-remove"),
]
