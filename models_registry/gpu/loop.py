"""A GPU and its one worker: what is loaded, and the loop that runs the work that the arbiter chooses."""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import Any

from django.utils import timezone

from models_registry.catalog.allowed import not_ready
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.resident import Resident
from models_registry.engine.server import Engine, Progress
from models_registry.engine.spec import EngineSpec
from models_registry.engine.start_progress import start_of
from models_registry.gpu import adapters, health
from models_registry.gpu.lane import Lane
from models_registry.gpu.lost_engines import LostEngines
from models_registry.gpu.shared_load import SharedLoad
from models_registry.models import Model, Worker, WorkerState
from models_registry.speed import measurements
from models_registry.workloads import Work
from vbs.database import outages

HEALTH_SECONDS = 3  # between two looks at a GPU that is too hot or too full


def loaded_words(model: Model, engine: Engine) -> str:
    """How the engine was loaded, such as `Loaded X in 31.2 s, with max-model-len 4096, because 8192 does not fit.`"""
    start = engine.started
    if engine.pid is None:
        return f"{engine.spec.name} answers, on a remote server."
    said = f"{'Woke' if start.woken else 'Loaded'} {engine.spec.name} in {start.seconds:.1f} s"
    if not start.reduced:
        return f"{said}."
    changed = " and ".join(f"{name} {value}" for name, value in start.reduced.items())
    asked = {"max-model-len": (model.base or model).context_length} | dict(engine.spec.args)
    given = asked.get(next(iter(start.reduced))) if len(start.reduced) == 1 else None
    return f"{said}, with {changed}, because {given or 'more'} does not fit."


class Gpu(Lane):
    """The GPU of one worker: the worker's row, its engine, and the loop that runs local work."""

    def __init__(self, worker: Worker, resident: Resident) -> None:
        super().__init__(worker)
        self.resident = resident
        self.losses = LostEngines()
        self._start = ""  # of an engine, that is shown

    @property
    def engine(self) -> Engine | None:
        return self.resident.engine

    @property
    def adapters(self) -> set[str]:
        return self.resident.adapters

    def load(self, model: Model, on_progress: Progress) -> Engine:
        """The engine that serves this model, which may be an adapter; loaded if it is not.

        on_progress raises when the caller does not need the model any more. It is loaded all the same if other work
        needs it next, and the exception is raised here afterwards; otherwise at once. Raises LoadError.
        """
        if why := not_ready(model):
            raise LoadError(why)
        before = self.resident.engine
        loading = SharedLoad(self, model, on_progress)
        try:
            engine = self.resident.acquire(self._spec(model), loading.on_progress, model.adapter())
        except LoadError as error:
            self.record_check(model, str(error))
            if loading.gone:
                raise loading.gone from None
            raise
        self.record_check(model)
        if engine is not before:
            self.loaded_at = timezone.now()
            measurements.record_load(model, engine)
        if loading.gone:
            raise loading.gone
        return engine

    def _spec(self, model: Model) -> EngineSpec:
        """The spec of its engine. One that has to be started gets the options for the adapters for which work waits."""
        spec, base = model.spec(), model.base or model
        if self.resident.serves(spec, model.adapter()):
            return spec
        works = [*self._waiting(base.name), *([self.work] if self.work else [])]
        asked = {model.name, *(name for work in works if work.model == base.name for name in work.asked)}
        return replace(spec, lora=tuple(sorted(adapters.options(base, asked).items())))

    def serves(self, model: Model) -> bool:
        """Does the loaded engine serve this model, which may be an adapter, as it runs now?"""
        return not not_ready(model) and self.resident.serves(model.spec(), model.adapter())

    def try_out(self, model: Model, options: dict[str, Any], on_progress: Progress) -> Engine:
        """A new engine of this model with other options than its own. Only the caller uses it, and unloads it.

        on_progress raises when the caller has to stop. Raises LoadError.
        """
        if why := not_ready(model):
            raise LoadError(why)
        self.resident.unload(model.name)
        trial = copy(model)
        trial.engine_args = options
        engine = self.resident.acquire(replace(trial.spec(), trial=True), on_progress)
        self.loaded_at = timezone.now()
        return engine

    def unload(self, model: Model) -> bool:
        """Unload the model, or only the adapter if it is one. False when it was not loaded."""
        if not model.base:
            return self.resident.unload(model.name)
        loaded = model.served_name in self.resident.adapters
        self.resident.keep_adapters(self.resident.adapters - {model.served_name})
        return loaded

    def _waiting(self, loaded: str) -> Iterator[Work]:
        return adapters.restarting(super()._waiting(loaded), self.resident)

    def alone(self) -> bool:
        others = Worker.objects.alive().filter(cluster="gpu").exclude(pk=self.worker.pk)
        return not others.exists()

    def serve(self) -> None:
        """Run the work that waits, one after the other, until there is none."""
        self.release_held()
        if self.losses.look(self.resident):
            self.resident.unload(self.loaded)  # processes that it had started may still hold memory
            self.show(WorkerState.IDLE)
        if self.resident.adapters:
            registered = Model.objects.filter(base__name=self.loaded)
            self.resident.keep_adapters({model.served_name for model in registered.select_related("base")})
            self.show(WorkerState.IDLE)
        why = ""
        while not self.stopping() and (work := self.next()):
            if why := health.why_wait(health.read(), loaded=bool(self.loaded), waiting=bool(why)):
                work = self.next(freeing=True)
            if work:
                self.run(work)
            self.show(WorkerState.IDLE, why)
            if not work:
                outages.stopping.wait(HEALTH_SECONDS)

    def show(self, state: WorkerState, activity: str = "", work: Work | None = None) -> None:
        engine = self.resident.engine
        since: dict[str, Any] = {}
        if (start := start_of(activity) if state == WorkerState.LOADING else "") != self._start:
            self._start, since = start, {"loading_since": timezone.now() if start else None}
        self.worker.set(
            state=state,
            activity=activity[:500],
            **since,
            work_kind=work.source.kind if work else "",
            work_id=work.id if work else "",
            model_name=engine.spec.name if engine and not engine.spec.trial else "",  # a trial serves nobody else
            engine_pid=engine.pid if engine else None,
            engine_url=(engine.address.socket or engine.address.url) if engine else "",
            adapters=sorted(self.resident.adapters) if engine else [],
        )
