"""The addresses of the pages of models, of the playground and of the system."""

from django.urls import path

from models_registry.pages.logs import page as logs
from models_registry.pages.logs import views as logs_views
from models_registry.pages.model import page as model
from models_registry.pages.model import views as model_views
from models_registry.pages.models import demo
from models_registry.pages.models import page as models
from models_registry.pages.models import views as models_views
from models_registry.pages.playground import views as playground_views
from models_registry.pages.system import page as system
from models_registry.pages.system import views as system_views
from vbs.live import pages as live

urlpatterns = [
    path("models/", models_views.models, name="models"),
    live.path("models/live", models.PAGE, name="models-live"),
    path("models/read", models_views.read, name="models-read"),
    path("models/plan", models_views.plan, name="models-plan"),
    path("models/add", models_views.add, name="models-add"),
    path("models/demo", demo.add, name="models-demo"),
    path("models/<int:pk>/", model_views.model, name="model"),
    live.path("models/<int:pk>/live", model.PAGE, name="model-live"),
    path("models/<int:pk>/act", model_views.act, name="model-act"),
    path("models/<int:pk>/run", model_views.run, name="model-run"),
    path("models/<int:pk>/keep", model_views.keep, name="model-keep"),
    path("models/<int:pk>/fit", model_views.fit, name="model-fit"),
    path("models/<int:pk>/edit", model_views.edit, name="model-edit"),
    path("models/<int:pk>/alias", model_views.alias, name="model-alias"),
    path("models/<int:pk>/remove", model_views.remove, name="model-remove"),
    path("playground/", playground_views.index, name="playground"),
    path("playground/models", playground_views.choose, name="playground-models"),
    path("playground/ask", playground_views.ask, name="playground-ask"),
    path("playground/code", playground_views.code, name="playground-code"),
    path("system/", system_views.index, name="system"),
    live.path("system/live", system.PAGE, name="system-live"),
    path("system/log", logs_views.log, name="system-log"),
    live.path("system/log/live", logs.PAGE, name="system-log-live"),
    path("system/log/whole", logs_views.download, name="system-log-whole"),
    path("system/disk", system_views.clean, name="system-disk"),
    path("system/workers/<uuid:pk>/restart", system_views.restart, name="worker-restart"),
    path("system/workers/<uuid:pk>/engine", system_views.engine, name="worker-engine"),
    path("system/workers/<uuid:pk>/free", system_views.free, name="worker-free"),
]
