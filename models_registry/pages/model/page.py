"""The page of one model: its state, its operations and its measurements."""

from django.http import QueryDict
from django.urls import reverse

from models_registry.models import Model, Worker
from models_registry.pages.machines import busy, machines
from models_registry.pages.model import history
from models_registry.pages.models.rows import rows
from models_registry.serving import usage
from vbs.live.pages import Page, PageGone
from vbs.pages.parts import LATER, SOON, Part, pulse
from vbs.pages.viewer import Viewer


def build(viewer: Viewer, query: QueryDict, pk: int) -> dict[str, Part]:
    if (model := Model.objects.described().filter(pk=pk).first()) is None:
        raise PageGone(pk)
    return parts(model, viewer)


PAGE = Page(build=build, topics=lambda pk: ("models", "workers"))


def parts(model: Model, viewer: Viewer) -> dict[str, Part]:
    """model: from `described`."""
    workers = list(Worker.objects.alive().filter(cluster="gpu"))
    (row,) = rows([model], viewer)
    return {
        "machines": machines(workers, viewer),
        "summary": Part(f"model-{model.pk}", "models/_summary.html", row | {"asked": usage.of_last_day(model, viewer)}),
        "history": history.operations(model, viewer),
        "measured": history.measurements(model),
        "pulse": pulse(reverse("model-live", args=[model.pk]), SOON if row["moves"] or busy(workers) else LATER),
    }
