"""`manage.py queue`: shows what runs and waits, pauses and resumes the queue, and sets priorities, in this server's
database."""

import getpass
import json
from collections.abc import Iterator, Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from batches import phase
from batches.api import wire
from batches.cli.report import called, duration
from batches.models import PRIORITIES, Batch
from batches.queue import pauses
from batches.queue.entries import Entry, entries
from models_registry.cli import lanes
from models_registry.models import Worker
from vbs.cli.terminal import aligned
from vbs.logs import one_line
from vbs.openai.errors import Conflict
from vbs.places import PROGRAM

SHOWN = 100


class Command(BaseCommand):
    help = "Show what runs and waits in all projects, pause the queue for maintenance, or set the priority of a batch."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        show = actions.add_parser("show", help="show what runs and what waits, in order")
        show.add_argument("--json", action="store_true", dest="as_json", help="as JSON")
        pause = actions.add_parser(
            "pause", help="pause the queue: running batches are interrupted, and none is run until it is resumed"
        )
        pause.add_argument("--reason", default="", metavar="TEXT", help="shown to everybody who looks at the queue")
        actions.add_parser("resume", help="resume the queue: interrupted batches go on where they were")
        priority = actions.add_parser("priority", help="set the priority of a batch that has not ended")
        priority.add_argument("batch_id", metavar="BATCH")
        priority.add_argument("number", type=int, metavar="N", help="-100 to 100; a higher one runs first")

    def handle(self, *, action: str, **options: Any) -> None:
        getattr(self, f"_{action}")(**options)

    def _show(self, as_json: bool, **_: Any) -> None:
        held, found = pauses.current(), entries(SHOWN)
        workers = list(Worker.objects.alive().filter(cluster="gpu"))
        if as_json:
            shown: dict[str, Any] = {"paused": wire.pause_object(held), "waiting_total": found.waiting_total}
            shown |= {"validating_total": found.reading, "lanes": [one for worker in workers for one in _lanes(worker)]}
            shown |= {name: list(map(_object, getattr(found, name))) for name in ("running", "waiting")}
            self.stdout.write(json.dumps(shown, indent=2, ensure_ascii=False))
            return
        if held:
            words = f"paused since {held.began_at:%Y-%m-%d %H:%M:%S} UTC by {held.asked_by or 'somebody'}"
            self.stdout.write(one_line(f"{words}: {held.reason}" if held.reason else words))
        self.stdout.write(aligned([["lane", "what it does"], *_doing(workers)]))
        rows = list(map(_row, (*found.running, *found.waiting)))
        if rows:
            self.stdout.write(aligned([["", "name", "priority", "requests", "starts", "ends", "reason"], *rows]))
        elif not found.reading:
            self.stdout.write(f"Nothing runs and nothing waits. '{PROGRAM} batch submit FILE' adds a batch.")
        if found.more:
            self.stdout.write(f"and {found.more:,} more")
        if found.reading:
            verb = "batch is" if found.reading == 1 else "batches are"
            self.stdout.write(f"{found.reading:,} {verb} being validated")

    def _pause(self, reason: str, **_: Any) -> None:
        if len(reason) > 500:
            raise CommandError(f"the reason has {len(reason):,} characters: at most 500 are allowed")
        held = pauses.pause(_who(), reason.replace("\0", ""))
        self.stdout.write(f"paused since {held.began_at:%Y-%m-%d %H:%M:%S} UTC; '{PROGRAM} queue resume' ends it")

    def _resume(self, **_: Any) -> None:
        self.stdout.write("batches run again" if pauses.resume(_who()) else "the queue was not paused")

    def _priority(self, batch_id: str, number: int, **_: Any) -> None:
        if number not in PRIORITIES:
            raise CommandError(f"the priority is {number}: it must be a whole number from -100 to 100")
        batch = Batch.objects.filter(pk=batch_id.replace("\0", "")).first()
        if batch is None:
            raise CommandError(
                one_line(f"there is no batch {batch_id!r}: '{PROGRAM} queue show' names those that wait")
            )
        try:
            with transaction.atomic():
                before = batch.priority
                batch.set_priority(number)
        except Conflict as conflict:
            raise CommandError(conflict.message) from conflict
        self.stdout.write(f"{batch.pk}: priority {before} → {batch.priority}")


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container the user may have no name
        return "manage.py"


def _doing(workers: Sequence[Worker]) -> Iterator[list[str]]:
    """The lanes, the GPU's before those of remote models, with what each does now."""
    if not workers:
        yield ["gpu", f"no GPU worker is running: '{PROGRAM} status' says more"]
    for worker in workers:
        yield ["gpu" if len(workers) == 1 else str(worker), lanes.of_gpu(worker)]
        for lane in worker.lanes:
            yield [lane["model"], lanes.of_remote(lane)]


def _lanes(worker: Worker) -> Iterator[dict[str, Any]]:
    model = worker.model_name or None
    yield {"worker": str(worker), "remote": False, "model": model, "state": worker.state, "activity": worker.activity}
    for lane in worker.lanes:
        yield {"worker": str(worker), "remote": True, **lane}


def _row(entry: Entry) -> list[str]:
    requests = f"{entry.batch.pending:,} of {entry.batch.total:,} left" if entry.batch else ""
    if entry.share is not None and entry.batch:
        requests += f", {entry.batch.in_flight or 0:,} in flight ({entry.share:.0%})"
    word = phase.word(entry.batch) if entry.batch else phase.of_operation(entry.operation)
    place = str(entry.position) if entry.position else word if entry.running else "-"
    return [
        place,
        called(entry.batch.name, entry.pk) if entry.batch else entry.name,
        str(entry.priority),
        requests,
        _time(entry.starts_in),
        _time(entry.ends_in),
        entry.reason,
    ]


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"in {duration(seconds)}" if seconds else "now"


def _object(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.pk,
        "name": entry.batch.name or None if entry.batch else None,
        "position": entry.position,
        "priority": entry.priority,
        "starts_in_seconds": entry.starts_in,
        "ends_in_seconds": entry.ends_in,
        "in_flight": entry.batch.in_flight if entry.batch and entry.running else None,
        "share_percent": None if entry.share is None else round(100 * entry.share, 1),
        "reason": entry.reason or None,
    }
