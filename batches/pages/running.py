"""What runs, as the overview and the queue show it: each engine with the batches that share it, and operations."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batches import phase
from batches.models import Batch
from batches.pages import time_left
from batches.pages.share import share_words
from batches.queue import entries, forecast
from batches.queue.entries import Engine
from batches.queue.snapshot import Forecast
from batches.run import pace
from models_registry.models import Operation, OperationState, Worker, WorkerState
from vbs.pages.parts import Part
from vbs.pages.plain import visible
from vbs.pages.viewer import Viewer

NOTHING = Forecast()


@dataclass
class RunningEngine:
    """An engine with the batches that run on it. model: whose; empty while it is not loaded. places: how many requests
    it has in flight at once, where that is known. doing: what it does before it answers. why: why a remote one gets no
    requests now. addresses, answering: of a remote one, how many it has, and how many of them are asked."""

    model: str = ""
    remote: bool = False
    places: int | None = None
    doing: str = ""
    why: str = ""
    addresses: int = 0
    answering: int = 0
    batches: list[Batch] = field(default_factory=list)


def section(
    viewer: Viewer,
    workers: Sequence[Worker],
    taken: Sequence[Batch],
    on: Mapping[str, Engine],
    template: str,
    *,
    controls: bool = False,
    also: Sequence[Part] = (),
    **context: Any,
) -> Part:
    """A part with a part for each engine.

    workers: the live ones of the GPU cluster. taken: the batches that run. on: where each of them does, as
    `entries.engines` gives it. controls: with the buttons of each batch, for who may use them. also: further parts,
    after the engines.
    """
    plan, parts = forecast.plan(), entries.shares(taken, on)
    found = []
    for place, engine in enumerate(engines(workers, taken, on)):
        rows = [
            _batch(
                viewer,
                batch,
                engine,
                plan.get(batch.pk, NOTHING),
                parts.get(batch.pk),
                f"run-{place}-{number}",
                controls,
            )
            for number, batch in enumerate(engine.batches)
        ]
        head = Part(f"engine-head-{place}", "batches/running/_head.html", {"engine": engine, "count": len(rows)})
        found.append(Part(f"engine-{place}", "batches/running/_engine.html", {}, [head, *rows]))
    return Part("running", template, context, [*found, *also])


def engines(workers: Iterable[Worker], taken: Iterable[Batch], on: Mapping[str, Engine]) -> Iterator[RunningEngine]:
    """Those that have a batch."""
    found: dict[Engine, RunningEngine] = {}
    for worker in workers:
        found[worker.pk, ""] = _local(worker)
        for lane in worker.lanes:
            found[worker.pk, lane["model"]] = _remote(lane)
    for batch in taken:
        worker_id, lane_name = on[batch.pk]
        engine = found.setdefault((worker_id, lane_name), RunningEngine(remote=bool(lane_name)))
        engine.batches.append(batch)
    return (engine for engine in found.values() if engine.batches)


def _local(worker: Worker) -> RunningEngine:
    window = worker.health.get("window") or {}
    loading = worker.state == WorkerState.LOADING
    doing = visible(worker.activity) if loading else ""
    return RunningEngine("" if loading else worker.model_name, places=window.get("size"), doing=doing)


def _remote(lane: dict[str, Any]) -> RunningEngine:
    open_ones = sum(one["state"] == "open" for one in lane["addresses"])
    return RunningEngine(
        lane["model"],
        remote=True,
        places=lane["window"] or None,
        why=lane["why"],
        addresses=len(lane["addresses"]),
        answering=open_ones,
    )


def _batch(
    viewer: Viewer,
    batch: Batch,
    engine: RunningEngine,
    expected: Forecast,
    share: float | None,
    anonymous: str,
    controls: bool,
) -> Part:
    """Of a batch of another project the page shows numbers only, and no address, project or model."""
    own = is_own(viewer, batch)
    name = f"row-{batch.pk}" if own else anonymous
    names = list(batch.model_names)
    context = {
        "batch": batch,
        "own": own,
        "state": phase.word(batch),
        "models": [] if names == [engine.model] else names,  # the engine's own is told above
        "controls": controls and own and viewer.may("batches.change_batch"),
    }
    progress = {
        "batch": batch,
        "own": own,
        "percent": int(batch.percent()),
        "speed": pace.of(batch),
        "share": share_words(share),
        "left": time_left.words(batch, expected, own),
    }
    children = [Part(f"progress-{name}", "batches/running/_progress.html", progress)]
    return Part(name, "batches/running/_batch.html", context, children)


def is_own(viewer: Viewer, batch: Batch) -> bool:
    """Whether the viewer may know it, and has not chosen another project."""
    return viewer.sees(batch.project_id) and viewer.project in (None, batch.project_id)


def operation(row: Operation, workers: Iterable[Worker], position: int = 0, reason: str = "") -> Part:
    """An operation that runs, or waits at this place for this reason."""
    runs = row.state == OperationState.RUNNING
    doing = (row.doing or _doing(row, workers)) if runs else ""
    context = {
        "operation": row,
        "state": phase.of_operation(row) if runs else phase.QUEUED,
        "doing": doing,
        "runs": runs,
        "position": position,
        "reason": reason,
    }
    return Part(f"operation-{row.pk}", "batches/running/_operation.html", context)


def _doing(row: Operation, workers: Iterable[Worker]) -> str:
    """What an operation that runs is at, in the words of its worker or lane."""
    for worker in workers:
        if worker.work_id == row.pk:
            return visible(worker.activity)
        for lane in worker.lanes:
            if lane["model"] == row.model.name:
                return visible(lane["activity"])
    return ""
