"""Fails requests whose model cannot be loaded: it is not registered, a draft, has failed, or may not run here.

This needs no GPU, and happens also while the queue is paused. A batch whose model is being fetched waits.
"""

import uuid
from collections.abc import Mapping

from django.db.models import Q

from batches.intake.validate import LineError
from batches.models import AT_ONCE, Batch, RequestState
from batches.run import claims, commit
from models_registry.catalog import aliases, allowed
from models_registry.models import Model, ModelState


def refusal(model: Model | None, name: str) -> str:
    """Why the model of this name cannot be loaded, and what to do; empty when it can, or is being fetched."""
    if model is None:
        return f"the model {name!r} is not registered any more"
    if ModelState.DOWNLOADING in (model.state, model.base and model.base.state):
        return ""
    return allowed.not_ready(model)


def lost(asked: str, why: str) -> LineError:
    """The error of the requests that ask for this model."""
    message = f"The model '{asked}' could not be loaded: {why}"
    return {"code": "model_load_failed", "line": None, "message": message, "param": "body.model"}


def fail(batch: Batch, worker: uuid.UUID, part: int | None, error: LineError) -> None:
    """Fail the pending requests of one of its models, or of all. The whole batch fails when these are all its requests
    and none has run. Raises LeaseLost."""
    part = None if len(batch.model_names) == 1 else part
    if part is None and batch.fail([dict(error)], worker):
        return
    code, message = error["code"], error["message"]
    failed = commit.fail_model(batch.pk, worker, part, code, message)
    batch.note(f"{failed:,} requests failed. {message}", "error")


def sweep() -> None:
    """Fail such requests in every batch that waits."""
    models = aliases.models()
    usable = [name for name, model in models.items() if not refusal(model, name)]
    kept = Q(pk=None)  # batches that have started on a model which cannot be loaded any more
    for name, model in models.items():
        if model.name == name and refusal(model, name):
            kept |= Q(resolved__contains=[{"model": name}])
    for batch in Batch.objects.waiting().filter(~Q(model_names__contained_by=usable) | kept)[:AT_ONCE]:
        end(batch, models)


def end(batch: Batch, models: Mapping[str, Model] | None = None) -> None:
    """Fail such requests of one batch, if it waits. models: by every name; read when they are not given."""
    models = aliases.models() if models is None else models
    parts = []
    for part, name in enumerate(batch.pinned_names()):
        pending = batch.requests.filter(state=RequestState.PENDING, model_index=part)
        if (why := refusal(models.get(name), name)) and pending.exists():
            parts.append((part, why))
    owner = uuid.uuid4()
    if not parts or (mine := claims.claim(batch.pk, owner)) is None:
        return
    for part, why in parts:
        fail(mine, owner, part, lost(mine.model_names[part], why))
    if not mine.finish(owner):
        mine.release(owner)
