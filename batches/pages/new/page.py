"""What the page of a new batch shows: the models to choose from, the result of a check, and the reports of it."""

import csv
import io
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from django.conf import settings
from django.core import signing

from batches.export.cells import inert
from batches.intake.repair import CLIPPED, Checked, is_table, remedy
from batches.intake.validate import LineError, Report
from batches.models import Batch, File
from models_registry.models import Alias, Model, ModelState, Task, Worker
from vbs.pages.plain import visible

SALT = "batches.new"
LAST = 20  # batches of a project that are looked at for the model that it uses


# Names


def ready_names() -> dict[str, str]:
    """Every name that a batch can use now, with its model's task; aliases first."""
    models = Model.objects.filter(state=ModelState.READY).values_list("name", "task")
    named = Alias.objects.filter(model__state=ModelState.READY).values_list("name", "model__task")
    return dict(named) | dict(models)


def usual_model(project: int | None) -> str:
    """The model that is chosen beforehand: the only one for chat, or the only one at all; of several the one that the
    last batch of this project named, else one that is loaded. Empty where none of these can be used now."""
    models = Model.objects.filter(state=ModelState.READY).values_list("name", "task")
    found = [name for name, task in models if task == Task.CHAT] or [name for name, _ in models]
    if len(found) == 1:
        return found[0]
    names = ready_names()
    last = Batch.objects.filter(project=project).order_by("-id").values_list("default_model", "model_names")[:LAST]
    used = (name for default, named in last for name in (default, *named) if name in names)
    loaded = Worker.objects.loaded()
    return next(used, None) or next((name for name in found if name in loaded), "")


def model_choices(none: str) -> list[Any]:
    """none: what it means to choose no model."""
    models = list(Model.objects.filter(state=ModelState.READY).values_list("name", "task"))
    named = Alias.objects.filter(model__state=ModelState.READY).values_list("name", "model__name")
    groups: list[Any] = [("", none)]
    if aliases := [(name, f"{name} → {model}") for name, model in named]:
        groups.append(("Aliases", aliases))
    if models:
        groups.append(("Models", [(name, f"{name} ({task})") for name, task in models]))
    return groups


# What was checked


def checked(found: Checked, typed: Mapping[int, str]) -> dict[str, Any]:
    """What the page shows of it. wrong: each bad line that is shown, with the text to correct: what has been typed, or
    what was there; None where it cannot be corrected here."""
    mendable = {one.line for one in found.mendable}
    wrong = [
        (one, typed.get(one.line or 0, one.whole or "") if one.line in mendable else None) for one in found.problems
    ]
    unit = "row" if is_table(found.file) else "line"
    return {"result": found, "unit": unit, "wrong": wrong, "mendable": len(mendable)}


class WholeReport(Report):
    """A report with every error."""

    def add(self, code: str, line: int | None, message: str, param: str | None = None) -> None:
        self.count += 1
        self.errors.append({"code": code, "line": line, "message": message, "param": param})


def report_json(errors: list[LineError]) -> Iterator[bytes]:
    for place, one in enumerate(errors):
        yield (b"[\n" if not place else b",\n") + orjson.dumps({**one, "remedy": remedy(one)})
    yield b"\n]\n" if errors else b"[]\n"


def report_csv(errors: list[LineError]) -> Iterator[bytes]:
    yield _csv("line", "code", "message", "remedy")
    for one in errors:
        message = visible(one["message"])[: 4 * CLIPPED]
        yield _csv(str(one["line"] or ""), one["code"], message, remedy(one))


def _csv(*fields: str) -> bytes:
    """A line of CSV whose cells a spreadsheet reads as text, even when they begin with `=`."""
    out = io.StringIO()
    csv.writer(out).writerow(map(inert, fields))
    return out.getvalue().encode()


# What goes through the form: that a file was found right by us. Whose it is, its row says


def ready_token(file: File, endpoint: str, model: str) -> str:
    """A signed token that says which file was checked, for what, and when."""
    now = datetime.now(UTC).isoformat()
    return signing.dumps({"file": file.pk, "endpoint": endpoint, "model": model, "since": now}, salt=SALT)


def ready(token: str) -> dict[str, str]:
    """The content of a `ready_token`; empty when it is not valid."""
    try:
        found: dict[str, str] = signing.loads(token, salt=SALT)
    except signing.BadSignature:
        return {}
    return found


def most_bytes() -> int:
    return settings.VBS_MAX_BATCH_MB * 2**20
