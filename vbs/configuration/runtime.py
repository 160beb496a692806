"""Settings that can be changed while vbs runs: the value that was set in the browser, else the environment's.

A process reads the overrides again when it needs one and its copy is older than two seconds. While the database cannot
be reached, the last known values apply: a setting never makes something fail.
"""

import contextlib
import logging
import math
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from vbs.configuration.declared import Setting, changeable, parsed
from vbs.configuration.models import Override
from vbs.timed_cache import Kept

log = logging.getLogger(__name__)

FRESH_SECONDS = 2.0

_kept: Kept[dict[str, Any]] = Kept(late=math.inf)
_known: dict[str, Any] = {}  # while the database is away
_said = ""


def value(name: str) -> Any:
    """The present value of a setting that can be changed."""
    setting = changeable(name)
    known = _kept.get("overrides", FRESH_SECONDS, _read)
    return known[name] if name in known else at_start(setting)


def at_start(setting: Setting) -> Any:
    """The environment's value, or the default."""
    return getattr(settings, setting.attribute)


def change(name: str, given: Any, by: str) -> tuple[Any, Any]:
    """Set this value until it is reset. Returns the old value and the new one. Raises ValueError."""
    new = parsed(name, given)
    with transaction.atomic():
        before = Override.objects.select_for_update().filter(pk=name).first()
        row = {"value": new, "changed_at": timezone.now(), "changed_by": by[:150]}
        Override.objects.update_or_create(name=name, defaults=row)
        _forget_at_commit()
    return (before.value if before else getattr(settings, name)), new


def reset(name: str) -> tuple[Any, Any] | None:
    """Return to the environment's value, or the default. Returns the old value and that one; None when none was set."""
    with transaction.atomic():
        before = Override.objects.select_for_update().filter(pk=name).first()
        if before is None:
            return None
        before.delete()
        _forget_at_commit()
    return before.value, getattr(settings, name)


def forget() -> None:
    """Read the overrides again at the next use."""
    _kept.forget()


def valid(rows: Iterable[Override]) -> dict[str, Any]:
    """The overrides that are still valid; others were made elsewhere or by an older version."""
    found = {}
    for row in rows:
        with contextlib.suppress(KeyError, ValueError):
            found[row.name] = parsed(row.name, row.value)
    return found


def _forget_at_commit() -> None:
    forget()
    transaction.on_commit(forget)


def _read() -> dict[str, Any]:
    global _known
    try:
        rows = list(Override.objects.all())
        _known = valid(rows)
        _say_once(", ".join(f"{row.name} is {row.value!r}"[:80] for row in rows if row.name not in _known))
    except Exception as error:  # whatever keeps the database from us
        _say_once(f"out of reach: {str(error).strip()[:200] or type(error).__name__}")
    return _known


def _say_once(trouble: str) -> None:
    """Logs it once; otherwise it would be logged again after two seconds."""
    global _said
    if trouble and trouble != _said:
        log.warning("Settings: those that were set in the browser are not taken: %s", trouble)
    _said = trouble
