"""`manage.py status`: shows which parts of vbs run, what they do, and what is wrong. It starts nothing."""

import json
import socket
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import httpx2
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connection
from django.db.models import Count, F
from django.db.models.functions import Now

from batches.api import wire
from batches.cli.report import called, duration
from batches.models import Batch
from batches.queue import entries, pauses
from models_registry import workloads
from models_registry.cli import lanes
from models_registry.gpu import control
from models_registry.models import STALE, Worker
from vbs.cli import access
from vbs.cli.remote import Remote, RemoteError
from vbs.cli.terminal import aligned
from vbs.logs import one_line
from vbs.pages.viewer import Viewer
from vbs.places import PROGRAM
from vbs.run import postgres, processes, stack

WEB_TIMEOUT = httpx2.Timeout(10)
DATABASE_SECONDS = 5
SHOWN = 10  # batches of the queue that are shown
RUNNING = 500  # batches whose shares of their engines are worked out
EVERYTHING = Viewer(frozenset(), None)  # a person who can run this can read the tables

Found = dict[str, Any]


class Command(BaseCommand):
    help = "Show what runs, what it does, and what is wrong. The exit code is 0 when all is well, else 1."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", dest="as_json", help="as JSON")

    def handle(self, *, as_json: bool, **options: Any) -> None:
        found = look()
        found["problems"] = list(problems(found))
        found["ok"] = not found["problems"]
        if as_json:
            self.stdout.write(json.dumps(found, indent=2))
        else:
            self.stdout.write(aligned(list(rows(found))))
        self.stdout.flush()
        if not found["ok"]:
            nothing = not (found["web"]["answers"] or found["supervisor"] or found["workers"])
            hint = f"\nNothing runs here; '{PROGRAM} up' starts it." if nothing else ""
            raise CommandError("\n".join(map(one_line, found["problems"])) + hint)


# Look


def look() -> Found:
    return {
        "ok": False,
        "problems": [],
        "data": str(settings.VBS_DATA_DIR),
        "supervisor": _supervisor(),
        "web": _web(),
        **_database(),
    }


def _supervisor() -> Found | None:
    found = stack.running(settings.VBS_DATA_DIR)
    return asdict(found) if found else None


def _web() -> Found:
    url = access.local_url()
    with Remote(url, timeout=WEB_TIMEOUT) as remote:
        web: Found = {"url": url, "answers": remote.answers(), "ready": {}, "detail": ""}
        if web["answers"]:
            try:
                web["ready"] = remote.ready()["parts"]
            except RemoteError as error:
                web["detail"] = str(error)
    return web


def _database() -> Found:
    """What the tables say, or that the database is missing."""
    found: Found = {"database": {"answers": False, "detail": ""}, "workers": [], "engines": [], "queue": None}
    connection.settings_dict["OPTIONS"] = {"connect_timeout": DATABASE_SECONDS} | connection.settings_dict["OPTIONS"]
    try:
        if not settings.DATABASE_URL and postgres.running(settings.VBS_DATA_DIR) is None:
            raise postgres.PostgresError("the embedded PostgreSQL does not run")
        workers = list(Worker.objects.annotate(silence=Now() - F("heartbeat_at")))
        found["queue"] = _queue()
    except (DatabaseError, postgres.PostgresError) as error:
        found["database"]["detail"] = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return found
    found["database"]["answers"] = True
    found["workers"] = [_worker(worker) for worker in workers]
    found["engines"] = [_engine(worker) for worker in workers if worker.model_name]
    return found


def _worker(worker: Any) -> Found:
    return {
        "name": str(worker),
        "cluster": worker.cluster,
        "hostname": worker.hostname,
        "pid": worker.pid,
        "version": worker.version,
        "state": worker.state,
        "activity": control.activity(worker, EVERYTHING),
        "work_kind": worker.work_kind or None,
        "work_id": worker.work_id or None,
        "work_ids": workloads.shown_ids(worker, EVERYTHING),
        "heartbeat_seconds": round(worker.silence.total_seconds(), 1),
        "alive": worker.silence < STALE,
        "health": worker.health,
        "lanes": worker.lanes,
    }


def _engine(worker: Worker) -> Found:
    """alive: None when it cannot be known, for an engine on another machine or a remote server."""
    ours = worker.hostname == socket.gethostname()
    return {
        "worker": str(worker),
        "model": worker.model_name,
        "pid": worker.engine_pid,
        "url": worker.engine_url,
        "alive": processes.alive(worker.engine_pid) if ours and worker.engine_pid else None,
    }


def _queue() -> Found:
    running, waiting = list(Batch.objects.running()[:RUNNING]), entries.entries(SHOWN).waiting
    shares = entries.shares(running)
    return {
        "running": [dict(wire.queue_item(one, 0, own=True, share=shares.get(one.pk))) for one in running[:SHOWN]],
        "running_total": Batch.objects.running().count(),
        "waiting": [dict(wire.queue_item(one.batch, one.position or None, own=True)) for one in waiting if one.batch],
        "waiting_total": Batch.objects.waiting().count(),
        "paused": wire.pause_object(pauses.current()),
        "by_status": dict(Batch.objects.order_by("status").values_list("status").annotate(Count("pk"))),
    }


# Judge


def problems(found: Found) -> Iterator[str]:
    web = found["web"]
    if not web["answers"]:
        yield f"No web server answers at {web['url']}."
    elif web["detail"]:
        yield f"The web server cannot say whether it is ready: {web['detail']}"
    yield from (f"The web server says of {part}: {state}." for part, state in web["ready"].items() if state != "ok")
    if found["supervisor"]:
        if not found["supervisor"]["programs"]:
            yield "The supervisor does not answer: it is starting or stopping."
        for program in found["supervisor"]["programs"]:
            if program["state"] != "RUNNING":
                yield f"The program {program['name']} is {program['state']}: {program['detail']}."
    if not found["database"]["answers"]:
        yield f"The database does not answer: {found['database']['detail']}."
        return
    for cluster in ("io", "gpu"):
        workers = [worker for worker in found["workers"] if worker["cluster"] == cluster]
        if not any(worker["alive"] for worker in workers):
            last = min((worker["heartbeat_seconds"] for worker in workers), default=None)
            said = "" if last is None else f"; the last sign of life of one was {duration(last)} ago"
            yield f"No {cluster} worker runs{said}."
    for engine in found["engines"]:
        if engine["alive"] is False:
            yield f"The engine of {engine['model']} (pid {engine['pid']}) has ended; its worker starts it again."


# Show


def rows(found: Found) -> Iterator[list[str]]:
    """Two columns: the part, and its state."""
    yield ["data", found["data"]]
    if found["supervisor"]:
        yield ["supervisor", f"runs for pid {found['supervisor']['pid']}"]
        for program in found["supervisor"]["programs"]:
            yield [f"  {program['name']}", f"{program['state']}, {program['detail']}"]
    web = found["web"]
    yield ["web", f"{web['url']} {'answers' if web['answers'] else 'does not answer'}"]
    for part, state in web["ready"].items():
        yield [f"  {part}", state]
    database = found["database"]
    yield ["database", "answers" if database["answers"] else database["detail"]]
    for worker in found["workers"]:
        life = "" if worker["alive"] else "SILENT, "
        doing = worker["activity"] or worker["state"]
        yield ["worker", f"{worker['name']}: {life}{doing} (heartbeat {duration(worker['heartbeat_seconds'])} ago)"]
        if last := (worker["health"].get("losses") or {}).get("last"):
            yield ["  lost", f"the idle engine of {last['model']}: {last['how']}"]
        for lane in worker["lanes"] if worker["alive"] else ():
            yield ["  lane", f"{lane['model']}: {lanes.of_remote(lane)}"]
    for engine in found["engines"]:
        state = {True: "alive", False: "ENDED", None: "not of this machine"}[engine["alive"]]
        pid = f"pid {engine['pid']}, " if engine["pid"] else ""
        yield ["engine", f"{engine['model']}: {pid}{state}, at {engine['url']}"]
    if queue := found["queue"]:
        counts = ", ".join(f"{count:,} {status}" for status, count in queue["by_status"].items())
        yield ["batches", counts or "none yet"]
        reason = queue["paused"] and (queue["paused"]["reason"] or f"'{PROGRAM} queue resume' ends it")
        held = f", paused ({reason})" if reason else ""
        yield ["queue", f"{queue['running_total']:,} running, {queue['waiting_total']:,} waiting{held}"]
        for batch in queue["running"] + queue["waiting"]:
            yield _queued(batch)


def _queued(batch: Found) -> list[str]:
    place = f"number {batch['position']}" if batch["position"] else batch["progress"]["phase"]
    done, eta = batch["completed"] + batch["failed"], batch["progress"]["eta_seconds"]
    left = "" if eta is None else f", {duration(eta)} left"
    left = f", {batch['in_flight']:,} in flight{left}" if batch["in_flight"] is not None else left
    name, models = called(batch["name"], batch["id"]), ", ".join(batch["models"])
    return [f"  {place}", f"{name}: {done:,}/{batch['total']:,}{left}, {models}, priority {batch['priority']}"]
