"""Gives a model the fastest setting that a tuning has found: its engine options change here, and nowhere else."""

import uuid
from collections.abc import Callable
from typing import cast

from django.db import transaction

from models_registry.catalog import add
from models_registry.catalog.folders import ModelError
from models_registry.gpu.tuning import candidates
from models_registry.gpu.tuning.candidates import Tuning
from models_registry.gpu.tuning.search import changed
from models_registry.models import OPEN_OPERATIONS, Model, Operation, OperationKind


def keep(operation: Operation, record: Callable[[str], object], worker: uuid.UUID | None = None) -> Operation:
    """Give the model the fastest setting that this operation has found. Returns the operation as it is then.

    record: writes to the audit log what was changed, in the same transaction. worker: the one that runs it; None when
    it has ended. Raises ModelError when there is nothing to keep, or the model's options are others than those that
    were measured.
    """
    with transaction.atomic():
        model = Model.objects.select_for_update().filter(pk=operation.model_id).first()
        locked = Operation.objects.select_for_update(of=("self",)).select_related("model")
        row = locked.filter(pk=operation.pk).first()
        if model is None or row is None:
            raise ModelError("the model was removed")
        tuning = cast(Tuning | None, row.result)
        if row.kind != OperationKind.TUNE or not tuning or not tuning["best"]:
            raise ModelError(f"{row.pk} has found no setting that is faster than the model's own")
        if tuning["kept"]:
            return row
        if (row.state in OPEN_OPERATIONS) != (worker is not None) or row.leased_by != worker:
            raise ModelError(f"{row.pk} is {row.state}: it can be kept when the operation has ended")
        if model.engine_args != tuning["own"]:
            raise ModelError(f"the engine options of {model.name} were changed since {row.pk} began: tune it anew")
        add.edit(model, on_server=False, engine_args=changed(model.engine_args, tuning["best"]))
        row.result = {**tuning, "kept": True}
        row.save(update_fields=["result"])
        record(f"engine_args: {candidates.words(tuning['best'])}, as {row.pk} has measured")
    return row
