"""Models that have never answered: of these nobody knows whether a batch for them would run."""

from collections.abc import Collection

from django.db.models import Exists, Func, JSONField, OuterRef

from batches.models import Batch
from models_registry.models import (
    OPEN_OPERATIONS,
    InteractiveUsage,
    Measurement,
    Model,
    ModelState,
    Operation,
    OperationState,
)
from vbs.logs import one_line

LOOKED_AT = 20  # models without a measurement of which more is asked
PROOF = (*OPEN_OPERATIONS, OperationState.SUCCEEDED)  # it answers, or is being asked


def models(busy: Collection[str]) -> list[Model]:
    """Those of the first LOOKED_AT that are ready, in a fixed number of queries. An adapter is proven with its base,
    and one whose engine is here or at work (`busy`) is left out: it is about to answer."""
    measured, asked = Measurement.objects.filter(model=OuterRef("pk")), Operation.objects.filter(model=OuterRef("pk"))
    rows = Model.objects.filter(~Exists(measured), ~Exists(asked.filter(state__in=PROOF)), base=None, check_error="")
    ready = rows.filter(state=ModelState.READY).exclude(name__in=busy).order_by("name")
    if not (names := list(ready.values_list("name", flat=True)[:LOOKED_AT])):
        return []
    directly = InteractiveUsage.objects.filter(model__in=names).values_list("model", flat=True).distinct()
    # A batch whose turn has not ended, or was interrupted, has answers without a measurement.
    name = Func(OuterRef("name"), function="jsonb_build_array", output_field=JSONField())
    answered = Batch.objects.filter(completed__gt=0, model_names__contains=name)
    return list(ready.filter(~Exists(answered), name__in=set(names) - set(directly)))


def last_errors(found: Collection[Model], for_operator: bool) -> dict[int, str]:
    """By model, how its last operation failed, in a sentence; without those of which none did."""
    rows = Operation.objects.filter(model__in=[model.pk for model in found], state=OperationState.FAILED)
    last = rows.defer("log", "result").order_by("model_id", "-id").distinct("model_id")
    return {row.model_id: _words(row, for_operator) for row in last}


def _words(row: Operation, for_operator: bool) -> str:
    why = f": {one_line(row.error).rstrip('.')}" if for_operator and row.error else ""
    return f"Its last {row.kind} failed{why}."
