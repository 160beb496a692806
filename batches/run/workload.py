"""Batches as work for the GPU: which batches wait, and how they are run."""

import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from django.db.models import Q
from django.utils import timezone

from batches.intake import sampled
from batches.models import Batch, RequestState
from batches.queue import pauses
from batches.run import claims
from batches.run.turn import Turn
from models_registry.catalog import aliases
from models_registry.gpu.arbiter import patience
from models_registry.gpu.lane import Lane
from models_registry.models import Alias, Model, ModelState, Worker
from models_registry.workloads import Request, Work, Workload
from vbs.pages.viewer import Viewer

INTERRUPTS = 10  # batches that are named one by one, of those that a restart would interrupt
HELD = 100  # batches of a worker that are named


def being_fetched() -> set[str]:
    """Every name of a model whose files, or whose base's files, are being fetched."""
    models = Model.objects.filter(Q(state=ModelState.DOWNLOADING) | Q(base__state=ModelState.DOWNLOADING))
    names = set(models.values_list("name", flat=True))
    return names | set(Alias.objects.filter(model__in=models).values_list("name", flat=True)) if names else names


class BatchesWorkload(Workload):
    """Batches, as the arbiter sees them."""

    kind = "batch"

    def waiting(self, loaded: str, lane: str = "") -> list[Work]:
        found: list[Work] = []
        if pauses.current():
            return found
        engines = aliases.engines()
        lanes = aliases.lanes()
        fetching = set() if lane else being_fetched()
        fields = ("model_names", "resolved", "priority", "validated_at", "expires_at")
        served = {name for name, engine in engines.items() if engine == loaded}
        near = timezone.now() + patience()
        names = {name for name, of in lanes.items() if not lane or of == lane}
        rows = Batch.objects.not_needing(fetching)
        rows = rows.with_requests_for(names) if lane else rows.with_requests_for_others(names)
        for batch in rows.only(*fields).candidates(served, near):
            if fetching.intersection(batch.pinned_names()):
                continue
            if found and batch.priority < found[0].priority:
                break
            assert batch.validated_at is not None
            needed = [engines.get(name, name) for name in batch.pinned_names()]
            here = [place for place, engine in enumerate(needed) if lanes.get(engine, "") == lane]
            if (index := self._next(batch, here, needed, loaded)) is None:
                continue
            about: dict[str, Any] = {"segment": index, "asked": tuple(batch.pinned_names()), "lane": lane}
            since, until = batch.validated_at, batch.expires_at
            found.append(Work(self, batch.pk, needed[index], batch.priority, since, until, **about))
        return found

    def _next(self, batch: Batch, here: list[int], needed: list[str], loaded: str) -> int | None:
        """The index of its next model in a lane: one whose engine is loaded if it has requests left, else the first
        that has. here: the indexes of its models that run in this lane."""
        if len(needed) == 1:
            return next(iter(here), None)
        order = sorted(here, key=lambda index: needed[index] != loaded)
        pending = batch.requests.filter(state=RequestState.PENDING)
        return next((index for index in order if pending.filter(model_index=index).exists()), None)

    def run(self, work: Work, gpu: Lane) -> None:
        Turn(work, gpu).run()

    def release(self, worker: uuid.UUID, ids: Collection[str] | None = None) -> None:
        claims.release_all(worker, ids)

    def needs(self, names: Sequence[str]) -> list[str]:
        return Batch.objects.reasons_to_keep(names)

    def has_file(self, file_id: str, projects: Collection[int] | None) -> bool:
        return sampled.has_file(file_id, projects)

    def sample(self, file_id: str, model: Model, count: int, seed: int, check: Callable[[], object]) -> list[Request]:
        return sampled.requests(file_id, model, count, seed, check)

    def interrupts(self, worker: Worker, viewer: Viewer) -> Iterator[str]:
        held = Batch.objects.of(worker.pk).held()
        for batch in held.order_by("-priority", "validated_at", "id")[:INTERRUPTS]:
            name = batch.pk if viewer.sees(batch.project_id) else "a batch of another project"
            done = batch.completed + batch.failed
            progress = f", {done:,} of {batch.total:,} requests done" if batch.total else ""
            yield f"It runs {name} ({batch.get_status_display()}{progress}), which continues where it stopped."
        if (more := held.count() - INTERRUPTS) > 0:
            yield f"It runs {more:,} more {'batches, which go' if more > 1 else 'batch, which goes'} on afterwards too."

    def sees(self, viewer: Viewer, work_id: str) -> bool:
        return viewer.all_own(Batch.objects.filter(pk=work_id)).exists()

    def held(self, worker: Worker, viewer: Viewer) -> list[str]:
        ours = Batch.objects.running().of(worker.pk)
        here = ours.exclude(model_names__contained_by=list(aliases.lanes()))  # those of remote models run beside
        return list(viewer.all_own(here).values_list("pk", flat=True)[:HELD])
