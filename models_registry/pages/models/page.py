"""The page of all models: the machines that serve them, and a table with one row per model."""

from collections import defaultdict
from collections.abc import Iterable

from django.db.models import F
from django.http import QueryDict
from django.urls import reverse

from models_registry.models import Model, ModelState, Task, Worker
from models_registry.pages.machines import busy, machines
from models_registry.pages.models.rows import rows
from vbs.live.pages import Page
from vbs.pages.parts import LATER, SOON, Part, pulse
from vbs.pages.viewer import Viewer


def build(viewer: Viewer, query: QueryDict) -> dict[str, Part]:
    workers = list(Worker.objects.alive().filter(cluster="gpu"))
    found = rows(_in_order(list(Model.objects.described())), viewer)
    moves = busy(workers) or any(row["moves"] for row in found)
    children = [Part(f"model-{row['model'].pk}", "models/_row.html", row) for row in found]
    return {
        "machines": machines(workers, viewer),
        "table": Part("table", "models/_table.html", {}, children),
        "pulse": pulse(reverse("models-live"), SOON if moves else LATER),
    }


PAGE = Page(build=build, topics=lambda: ("models", "workers"))


def _in_order(models: list[Model]) -> list[Model]:
    """The models, with each adapter after its base."""
    adapters = defaultdict(list)
    for model in models:
        adapters[model.base_id].append(model)
    return [each for model in adapters[None] for each in (model, *adapters[model.pk])]


def names_for_chat() -> Iterable[str]:
    """The names of models that answer chat requests, for examples."""
    ready = Model.objects.filter(state=ModelState.READY, task=Task.CHAT)
    return ready.order_by(F("base_id").asc(nulls_first=True), "name").values_list("name", flat=True)[:20]
