"""What an operator can tell a worker to do: restart, load its engine again, free the GPU. Running requests are not
lost."""

from django.db import transaction

from models_registry import workloads
from models_registry.catalog.folders import ModelError
from models_registry.gpu import operations
from models_registry.models import Model, Operation, OperationKind, OperationState, Worker, WorkerState
from vbs.pages.plain import visible
from vbs.pages.viewer import Viewer
from vbs.places import PROGRAM


def doing(worker: Worker, viewer: Viewer) -> list[str]:
    """What the worker does now, and what a stop would interrupt."""
    found = workloads.interrupts(worker, viewer)
    if not found and worker.activity and worker.state != WorkerState.IDLE:
        found.append(f"It is at: {activity(worker, viewer)}")
    return found or ["It is idle: nothing is interrupted."]


def activity(worker: Worker, viewer: Viewer) -> str:
    """What the worker does, as a page shows it: `Running a batch on tiny (batch_1)`, with the id for those who may see
    it, and how many more of theirs it runs at once.

    A load belongs to the engine, so it has no id.
    """
    found = workloads.shown_ids(worker, viewer) if worker.state == WorkerState.RUNNING else []
    if not found:
        return visible(worker.activity)
    more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
    return visible(f"{worker.activity} ({found[0]}{more})")


def restart(worker: Worker) -> None:
    """End the worker's process and start it again, within a heartbeat. Raises ModelError."""
    if not worker.ask_restart():
        raise ModelError(
            f"{worker} gives no sign of life, so it hears of nothing: see the log of {worker.cluster} on "
            f"{worker.hostname}, and start '{PROGRAM} up' there again"
        )


def free(worker: Worker, asked_by: str) -> Operation:
    """Unload the worker's models, before every batch. Raises ModelError."""
    return operations.ask(OperationKind.UNLOAD, _loaded(worker), now=True, asked_by=asked_by, worker=worker.pk)


def restart_engine(worker: Worker, asked_by: str) -> Operation:
    """Unload the worker's model and load it again; once, however often it is asked for meanwhile. Raises ModelError."""
    model = _loaded(worker)
    with transaction.atomic():
        unload = operations.ask(OperationKind.UNLOAD, model, now=True, asked_by=asked_by, worker=worker.pk)
        older = model.operations.filter(
            kind=OperationKind.LOAD, state=OperationState.QUEUED, worker=worker.pk, created_at__lt=unload.created_at
        )
        for load in older:
            operations.cancel(load)  # the load must come after this unload
        return operations.ask(OperationKind.LOAD, model, now=True, asked_by=asked_by, worker=worker.pk)


def _loaded(worker: Worker) -> Model:
    if not worker.alive or not worker.model_name:
        raise ModelError(f"{worker} has no model loaded, so there is nothing to do")
    if (model := Model.objects.filter(name=worker.model_name, base=None).first()) is None:
        raise ModelError(f"the model {worker.model_name} is not registered any more: restart the worker instead")
    return model
