"""What a new server needs until it answers its first requests."""

from dataclasses import dataclass

from django.conf import settings

from batches.models import Batch
from models_registry.models import Model, ModelState
from vbs.accounts.models import ApiKey
from vbs.pages.parts import Values
from vbs.pages.viewer import Viewer


@dataclass(frozen=True)
class Step:
    """address: where it is done in the browser, empty for who may not. command: how a shell does it."""

    title: str
    words: str
    done: bool
    address: str
    button: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Steps(Values):
    """Empty once all of them are done."""

    template = "batches/overview/_steps.html"
    id: str = "steps"
    steps: tuple[Step, ...]


def first_steps(viewer: Viewer) -> Steps:
    """Three queries."""
    has_model = Model.objects.filter(state=ModelState.READY).exists()
    has_key = viewer.own(ApiKey.objects.usable()).exists()
    has_batch = viewer.own(Batch.objects.all()).exists()
    is_open = settings.VBS_API_AUTH == "open"
    steps = (
        Step(
            title="Get a model",
            words="Fetch one from the hub, or have a small one to try things with.",
            done=has_model,
            address="/models/",
            button="Models",
            command="manage.py model add-demo",
        ),
        Step(
            title="Make a key",
            words="No key is asked for here (VBS_API_AUTH=open)." if is_open else "Programs show it with each request.",
            done=has_key or is_open,
            address="/system/keys" if viewer.may("accounts.view_apikey") else "",
            button="Keys",
            command="manage.py create_api_key --project default --name first",
        ),
        Step(
            title="Run a batch",
            words="A file with a request on each line; examples/demo_batch_10.jsonl is one to try.",
            done=has_batch,
            address="/batches/new" if viewer.may("batches.add_batch") else "",
            button="New batch",
            command="manage.py batch submit examples/demo_batch_10.jsonl --model smollm2-135m --wait",
        ),
    )
    return Steps(steps=() if all(step.done for step in steps) else steps)
