"""The rows of operations: ask for one, cancel, claim, renew and end it. Each step is a conditional update.

`operation_kinds` has what an operation does in its turn.
"""

import logging
import uuid
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any

from django.db import models, transaction
from django.db.models import F, Q, Value
from django.db.models.functions import Concat, Now, Right
from django.utils import timezone

from models_registry import workloads
from models_registry.catalog.allowed import not_ready
from models_registry.catalog.folders import ModelError
from models_registry.engine.spec import EngineKind
from models_registry.models import OPEN_OPERATIONS, READING, Model, Operation, OperationKind, OperationState, Worker
from vbs.broker import wake
from vbs.configuration import runtime
from vbs.leases import LeasedQuerySet

log = logging.getLogger(__name__)

AT_ONCE = 101  # a priority above that of every batch, so that a running one makes way
PRIORITIES = range(-100, AT_ONCE)
MOST_OPEN = 100  # open operations of all models, so that a faulty client cannot fill the queue
MOST_LOG = 20_000  # characters; the last ones are kept
ATTEMPTS = 3

Check = Callable[[Any], Any]  # returns the value, or raises ValueError with what it must be


def _whole(least: int, most: int) -> Check:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"a whole number from {least:,} to {most:,}")
        return value

    return check


def _temperature(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 2:
        raise ValueError("a number from 0 to 2")
    return value


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _prompt(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 10_000 or "\0" in value or not _is_unicode(value):
        raise ValueError("a text of 1 to 10,000 characters, without NUL")
    return value


def _file_id(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 100 or "\0" in value or not _is_unicode(value):
        raise ValueError("the id of a file, or empty")
    return value.strip()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character
        return False
    return True


# By kind, the options: the default of each, and its check.
OPTIONS: dict[str, dict[str, tuple[Any, Check]]] = {
    OperationKind.LOAD: {"keep_seconds": (0, _whole(0, 600))},  # before other work may have it make room
    OperationKind.UNLOAD: {},
    OperationKind.TEST: {
        "prompt": ("What is the capital of France?", _prompt),
        "max_tokens": (64, _whole(1, 1024)),
        "temperature": (0, _temperature),
    },
    OperationKind.BENCHMARK: {
        "requests": (100, _whole(1, 10_000)),
        "max_tokens": (64, _whole(1, 4096)),
        "prompt_tokens": (64, _whole(1, 32_768)),
        "seed": (0, _whole(0, 2**31 - 1)),
        "cold": (False, _switch),
    },
    OperationKind.TUNE: {
        "file": ("", _file_id),
        "minutes": (20, _whole(1, 1440)),
        "requests": (200, _whole(1, 10_000)),
        "max_tokens": (64, _whole(1, 4096)),
        "prompt_tokens": (64, _whole(1, 32_768)),
        "seed": (0, _whole(0, 2**31 - 1)),
        "keep": (False, _switch),
    },
}
NOT_OF_READING = ("max_tokens", "temperature")


def ask(
    kind: str,
    model: Model,
    options: dict[str, Any] | None = None,
    *,
    priority: int = 0,
    now: bool = False,
    asked_by: str = "",
    worker: uuid.UUID | None = None,
    projects: Collection[int] | None = (),
) -> Operation:
    """Queue an operation. If the same one is queued already, returns that one. Raises ModelError.

    priority: as for batches. now: before every batch; a running one makes way. worker: the only worker that may run it;
    None is any. projects: those whose files it may read; None is all.
    """
    if kind not in OperationKind.values:
        raise ModelError(f"{kind!r} is not an operation: it must be one of {', '.join(OperationKind.values)}")
    if not isinstance(priority, int) or isinstance(priority, bool) or priority not in PRIORITIES:
        raise ModelError(f"priority is {priority!r}: it must be a whole number from -100 to 100")
    given = _checked(kind, model, options or {})
    if given.get("file") and not workloads.has_file(given["file"], projects):
        raise ModelError(f"there is no file {given['file']!r} with the purpose 'batch': upload one, or leave it out")
    priority = AT_ONCE if now else priority
    with transaction.atomic():
        locked = Model.objects.select_for_update(of=("self",), no_key=True).select_related("base")
        if (found := locked.filter(pk=model.pk).first()) is None:
            raise ModelError(f"the model {model.name} is not registered any more")
        if kind != OperationKind.UNLOAD and (why := not_ready(found)):
            raise ModelError(why)
        queued = Operation.objects.filter(
            kind=kind, model=found, options=given, worker=worker, state=OperationState.QUEUED
        )
        if same := queued.select_related("model__base").first():
            if queued.filter(pk=same.pk, priority__lt=priority).update(priority=priority):
                same.priority = priority
        elif Operation.objects.filter(state__in=OPEN_OPERATIONS).count() >= MOST_OPEN:
            raise ModelError(f"{MOST_OPEN} operations wait already, which is the most: cancel some, or try again later")
        else:
            same = Operation.objects.create(
                kind=kind, model=found, options=given, priority=priority, asked_by=asked_by[:150], worker=worker
            )
        wake("gpu")
    return same


def _checked(kind: str, model: Model, options: dict[str, Any]) -> dict[str, Any]:
    """All options of this kind: those that are given, checked, and the defaults of the others."""
    known = dict(OPTIONS[kind])
    if model.task in READING:
        known = {name: option for name, option in known.items() if name not in NOT_OF_READING}
    if unknown := sorted(set(options) - set(known)):
        takes = ", ".join(known) or "none"
        raise ModelError(f"{kind} of {model.name} has no option {unknown[0]!r}: its options are {takes}")
    made = {}
    for name, (default, check) in known.items():
        try:
            made[name] = check(options.get(name, default))
        except ValueError as error:
            raise ModelError(f"{name} is {options[name]!r}"[:200] + f": it must be {error}") from None
    if kind == OperationKind.TUNE and (model.base or model.kind == EngineKind.REMOTE):
        why = (
            f"an adapter: tune its base {model.base}" if model.base else "on a remote server, which has its own options"
        )
        raise ModelError(f"{model.name} cannot be tuned, for it is {why}")
    asked = made.get("prompt_tokens", 0) + made.get("max_tokens", 0)
    makes_prompts = kind in (OperationKind.BENCHMARK, OperationKind.TUNE) and not made.get("file")
    if makes_prompts and model.context_length and asked > model.context_length:
        raise ModelError(
            f"prompt_tokens and max_tokens are {asked:,} together, but {model.name} takes at most "
            f"{model.context_length:,}: lower them"
        )
    return made


def cancel(operation: Operation) -> bool:
    """Cancel an operation; a worker that runs it stops within about a second. False when it had ended already."""
    cancelled = Operation.objects.filter(pk=operation.pk, state__in=OPEN_OPERATIONS).update(
        state=OperationState.CANCELLED, finished_at=Now()
    )
    operation.refresh_from_db()
    return bool(cancelled)


# For the worker


def runnable() -> LeasedQuerySet[Operation]:
    """The operations that can be claimed, also those whose worker has died, in the order of the queue."""
    waits = Q(state=OperationState.QUEUED) | Q(state=OperationState.RUNNING, attempts__lt=ATTEMPTS)
    open_ones = Operation.objects.filter(waits, state__in=OPEN_OPERATIONS).free()
    return open_ones.order_by("-priority", "created_at", "pk")


def runnable_in(lane: str) -> LeasedQuerySet[Operation]:
    """Those of a remote model, or where `lane` is empty those of all models that run here."""
    return runnable().filter(model__name=lane) if lane else runnable().exclude(model__kind=EngineKind.REMOTE)


def claim(operation_id: str, worker: uuid.UUID) -> Operation | None:
    """Claim an operation for this worker. None when another worker has it, or it has ended."""
    ours = runnable().filter(Q(worker=None) | Q(worker=worker), pk=operation_id)
    if ours.claim(worker, state=OperationState.RUNNING, started_at=Now()) is None:
        return None
    return Operation.objects.select_related("model__base").get(pk=operation_id)


def renew(operation: Operation, worker: uuid.UUID, lines: str, **progress: Any) -> bool:
    """Renew the lease, add lines to the log, and write the progress. False when it was cancelled, or the lease is
    lost. progress: `doing` and `percent`."""
    return _ours(operation, worker).renew(**progress, **_log(lines))


def keep_result(operation: Operation, worker: uuid.UUID, result: Any) -> bool:
    """Write what was found so far. False when it was cancelled, or the lease is lost."""
    return bool(_ours(operation, worker).update(result=result))


def end(
    operation: Operation, worker: uuid.UUID, state: OperationState, lines: str, result: Any = None, error: str = ""
) -> bool:
    """End the operation with this state, and release it. False when it was cancelled, or the lease is lost."""
    fields = {"state": state, "result": result, "error": error.replace("\0", ""), "finished_at": Now()}
    if _ours(operation, worker).release(**fields, **_log(lines)):
        return True
    Operation.objects.filter(pk=operation.pk).of(worker).release(**_log(lines))
    return False


def put_back(operation: Operation, worker: uuid.UUID, lines: str) -> None:
    """Queue an interrupted operation again, without counting the attempt."""
    with transaction.atomic():
        fields = {"state": OperationState.QUEUED, "attempts": F("attempts") - 1} | _log(lines)
        if _ours(operation, worker).release(**fields):
            wake("gpu")


def release_all(worker: uuid.UUID, ids: Collection[str] | None = None) -> None:
    """Release the operations of a worker that is known to be dead: they are queued again, up to ATTEMPTS times.

    ids: only these.
    """
    held = Operation.objects.of(worker)
    held = held if ids is None else held.filter(pk__in=ids)
    _give_up(held)
    held.filter(state=OperationState.RUNNING).release(state=OperationState.QUEUED)
    held.release()


def sweep() -> None:
    """Fail operations whose workers have died too often, wake a worker if one waits, and delete old ones."""
    _give_up(Operation.objects.free())
    _forget_the_dead()
    if runnable().exists():
        wake("gpu")
    old = timezone.now() - timedelta(days=runtime.value("VBS_RETENTION_DAYS"))
    Operation.objects.exclude(state__in=OPEN_OPERATIONS).filter(finished_at__lt=old).delete()


def _give_up(left: LeasedQuerySet[Operation]) -> None:
    error = f"The worker died {ATTEMPTS} times while it ran this operation. The log of the gpu worker may say why."
    killers = left.filter(state=OperationState.RUNNING, attempts__gte=ATTEMPTS)
    killers.release(state=OperationState.FAILED, error=error, finished_at=Now())


def _forget_the_dead() -> None:
    """Fail operations for one worker only that is dead: its engine has ended too, or is adopted as it is."""
    left = runnable().filter(worker__isnull=False).exclude(worker__in=Worker.objects.alive().values("pk"))
    error = "The worker that this operation was for gives no sign of life any more."
    left.release(state=OperationState.FAILED, error=error, finished_at=Now())


def _ours(operation: Operation, worker: uuid.UUID) -> LeasedQuerySet[Operation]:
    return Operation.objects.filter(pk=operation.pk, state=OperationState.RUNNING).of(worker)


def _log(lines: str) -> dict[str, Any]:
    """The change that adds these lines to the log."""
    return {"log": Right(Concat("log", Value(lines), output_field=models.TextField()), MOST_LOG)} if lines else {}
