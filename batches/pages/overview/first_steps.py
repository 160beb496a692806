"""The steps that a new server needs until it answers its first requests."""

from typing import Any

from django.conf import settings

from batches.models import Batch
from models_registry.models import Model, ModelState
from vbs.accounts.models import ApiKey
from vbs.pages.parts import Part
from vbs.pages.viewer import Viewer
from vbs.places import PROGRAM


def first_steps(viewer: Viewer) -> Part:
    """Empty once all of them are done. Each with where it is done in the browser, for who may, and how a shell does it.
    Three queries."""
    has_model = Model.objects.filter(state=ModelState.READY).exists()
    has_key = viewer.own(ApiKey.objects.usable()).exists()
    has_batch = viewer.own(Batch.objects.all()).exists()
    no_key = "This server needs no key (VBS_API_AUTH=open)."
    is_open = settings.VBS_API_AUTH == "open"
    steps: list[dict[str, Any]] = [
        {
            "title": "Get a model",
            "words": "Download one from the hub, or use a small demo model.",
            "done": has_model,
            "address": "/models/",
            "button": "Models",
            "command": f"{PROGRAM} model add-demo",
        },
        {
            "title": "Create a key",
            "words": no_key if is_open else "Programs send it with each request.",
            "done": has_key or is_open,
            "address": "/system/keys" if viewer.may("accounts.view_apikey") else "",
            "button": "Keys",
            "command": f"{PROGRAM} create_api_key --project default --name first",
        },
        {
            "title": "Run a batch",
            "words": "A file with a request on each line; examples/demo_batch_10.jsonl is one to try.",
            "done": has_batch,
            "address": "/batches/new" if viewer.may("batches.add_batch") else "",
            "button": "New batch",
            "command": f"{PROGRAM} batch submit examples/demo_batch_10.jsonl --model smollm2-135m --wait",
        },
    ]
    shown = [] if all(step["done"] for step in steps) else steps
    return Part("steps", "batches/overview/_steps.html", {"steps": shown})
