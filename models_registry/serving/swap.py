"""Has a model loaded because an interactive request asks for it (`VBS_INTERACTIVE=swap`), and waits for that."""

import asyncio
import time

from django.conf import settings
from django.db import connection

from models_registry.catalog.folders import ModelError
from models_registry.gpu import operations
from models_registry.models import OPEN_OPERATIONS, Operation, OperationKind, OperationState
from models_registry.serving import engines
from models_registry.serving.engines import SWAP, NotLoaded, Served
from vbs.accounts.models import Project
from vbs.configuration import runtime

PRIORITY = 100  # as the most urgent batches: it goes before the others, and makes them leave the engine
KEEP_SECONDS = 5  # for which the model stays in any case, so that those who waited for it are heard
LOOK_SECONDS = 0.5


def find_or_load(name: str, path: str, project: Project) -> Served | str:
    """The engine that has the model now; or the id of the operation that loads it. Raises ApiError."""
    try:
        return engines.find(name, path)
    except NotLoaded:
        if runtime.value("VBS_INTERACTIVE") != SWAP:
            raise
    model = engines.model_of(name)
    try:
        options = {"keep_seconds": KEEP_SECONDS}
        asked = operations.ask(
            OperationKind.LOAD, model, options, priority=PRIORITY, asked_by=f"project {project.name}"
        )
    except ModelError as error:  # it is not ready, or too much waits already
        raise NotLoaded(f"{model.name} is not loaded: {error}.", param="model") from error
    return asked.pk


async def loaded(name: str, path: str, operation_id: str) -> Served:
    """Wait until the model is loaded. Raises ApiError when that takes too long, or fails."""
    end = time.monotonic() + settings.VBS_INTERACTIVE_SWAP_SECONDS
    while True:
        found = await asyncio.to_thread(_look, name, path, operation_id, time.monotonic() >= end)
        if found:
            return found
        await asyncio.sleep(LOOK_SECONDS)


def _look(name: str, path: str, operation_id: str, is_last: bool) -> Served | None:
    """In a thread of its own, whose connection to the database ends with it."""
    try:
        try:
            return engines.find(name, path)
        except NotLoaded as error:
            state = Operation.objects.filter(pk=operation_id).values_list("state", flat=True).first()
            if state in OPEN_OPERATIONS and not is_last:
                return None
            why = "It is being loaded, which takes longer than requests wait" if is_last else "It could not be loaded"
            if state == OperationState.SUCCEEDED:
                why = "It had to make room again at once"
            raise NotLoaded(f"{error.message} {why}.", param="model") from error
    finally:
        connection.close()
