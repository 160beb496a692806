"""A turn on an engine: every batch that waits and that this engine serves takes part, as there is room.

The engine is loaded for the batch that the arbiter chose. The others join while it runs (`engine_run`), in the
arbiter's order, and each leaves when it has nothing left to run here, or has to make way. When the engine dies, it is
loaded again for those that are left.

The database decides: a request is done when its row says so, in the same transaction as its batch's counts. When a
worker dies, only the requests that it had in flight run again; a worker that has lost a lease cannot commit for that
batch.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from batches.files import blobs
from batches.intake import ingest
from batches.intake.validate import LineError
from batches.models import Batch, RequestState
from batches.queue import pauses, sharing
from batches.run import claims, commit, containment, engine_deaths, temporary_errors, unloadable
from batches.run.engine_run import EngineRun
from batches.run.member import DRAIN, Member, RunEnd, Segment, Sent
from batches.run.outcomes import failure
from models_registry.catalog import aliases
from models_registry.catalog.allowed import not_ready
from models_registry.engine.client import EngineDied
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.server import Engine, Progress
from models_registry.gpu.lane import Lane
from models_registry.gpu.loop import loaded_words
from models_registry.gpu.window import shortfall
from models_registry.models import Model, ModelState, Worker, WorkerState
from models_registry.workloads import Work
from vbs.database.outages import DATABASE_ERRORS

log = logging.getLogger(__name__)

LONG_WAIT_SECONDS = 1.0  # between two requests of a batch while others were served, from which on it is logged
PROGRESS_SECONDS = 1.0  # between two renewals of the leases during a load


class Interrupted(Exception):
    """Every batch left the turn while the engine was loading."""


@dataclass(frozen=True)
class Look:
    """What waits. joining: batches that may join, in the arbiter's order. outranking: the priority of the most urgent
    work that cannot join. alone: no other worker of this kind is there. asked_at: when somebody last asked the engine
    directly."""

    joining: list[Work]
    outranking: int | None
    paused: bool
    alone: bool
    asked_at: datetime | None


class Turn:
    """members: the batches that take part, by their ids."""

    def __init__(self, work: Work, gpu: Lane) -> None:
        self.work, self.gpu = work, gpu
        self.worker = gpu.worker.pk
        self.members: dict[str, Member] = {}
        self.deaths = engine_deaths.Deaths()
        self.most = sharing.most()
        self._looked = 0.0
        self._loading = ""  # the name of the model
        self._said: set[str] = set()

    def run(self) -> None:
        """Raises the database's errors when it stays out of reach."""
        try:
            if first := self._claim(self.work):
                self.members[first.batch.pk] = first
                self._run()
        except Interrupted:
            pass
        except DATABASE_ERRORS:
            raise
        except Exception as error:  # of the turn, so every batch is tried again later
            for member in self.members.values():
                containment.handle(error, member.batch, self.gpu.worker)
        finally:
            for member in self.members.values():
                member.close()

    def _run(self) -> None:
        self._look_at_all()
        while self.members:
            for member in list(self.members.values()):
                with self._alone(member):
                    self._drop_answered(member)
            if not self.members or not (engine := self._load(list(self.members.values()), self._on_progress)):
                return
            for member in list(self.members.values()):
                self._start(member)
            run = EngineRun(self, engine)
            self.gpu.window = run.window
            for member in self.members.values():
                self._warn(member, engine, run.window.most)
            if self.members:
                self.show_running()
            try:
                run.drive()
            except EngineDied as death:
                self.deaths.record(run.most, len(death.in_flight), run.answered)
                self._after_death(death)

    @contextmanager
    def _alone(self, member: Member) -> Iterator[None]:
        """An error in the block concerns this batch alone, which leaves the turn."""
        with containment.contained(member.batch, self.gpu.worker):
            try:
                yield
            except DATABASE_ERRORS:
                raise
            except Exception:
                self._forget(member)
                raise

    # Batches come

    def look(self) -> Look:
        """What waits now, and may join."""
        loaded = self.gpu.loaded
        waiting = self.gpu.waiting()
        models = aliases.models() if waiting else {}
        joining: list[Work] = []
        outranking: int | None = None
        held = False
        for work in waiting:
            if work.source is self.work.source and work.model == loaded and self._fits(work, models):
                if not held:
                    joining.append(work)
            else:
                held = True
                outranking = work.priority if outranking is None else max(outranking, work.priority)
        asked_at = Worker.objects.filter(pk=self.worker).values_list("asked_at", flat=True).first()
        return Look(joining, outranking, pauses.current() is not None, self.gpu.alone(), asked_at)

    def _fits(self, work: Work, models: Mapping[str, Model]) -> bool:
        """Does the engine, as it runs now, serve what the work asks of it? What cannot be loaded at all fails soon."""
        asked = [
            model for name in work.asked if (model := models.get(name)) and (model.base or model).name == work.model
        ]
        return all(not_ready(model) or self.gpu.serves(model) for model in asked)

    def join(self, work: Work) -> Member | None:
        """Claim a batch for the running engine. None when it does not take part."""
        member = self._claim(work)
        if member is None:
            return None
        with self._alone(member):
            try:
                if commit.commit(member.batch.pk, self.worker, []).closed:
                    self.let_go(member, RunEnd.CLOSED)
                elif not all(not_ready(one.model) or self.gpu.serves(one.model) for one in member.segments):
                    self.let_go(member, RunEnd.DONE)  # an option has just been changed, for example
                elif self._load([member], self._not_now) and self._start(member):
                    return member
            except Interrupted:
                self.let_go(member, RunEnd.DONE)
        return None

    def _claim(self, work: Work) -> Member | None:
        """A member for this batch, with its lease and its input file."""
        self.gpu.held.add(work.id)
        batch = claims.claim(work.id, self.worker)
        if batch is None:
            self.gpu.held.discard(work.id)
            return None
        with containment.contained(batch, self.gpu.worker):
            if not (segments := self._segments(batch, work.model)):
                return None
            try:
                return self._opened(batch, work.priority, segments)
            except blobs.BlobGone:
                lost = ingest.lost(batch, "is not in the storage any more")
                unloadable.fail(batch, self.worker, None, lost)
                self._end(batch, RunEnd.DONE)
        return None

    def _segments(self, batch: Batch, engine: str) -> list[Segment]:
        """Its requests for models that this engine serves. Lets go of the batch when there is none."""
        engines, found, fetching = aliases.engines(), [], False
        for index, name in enumerate(batch.pinned_names()):
            if engines.get(name, name) != engine or not self._has_pending(batch, index):
                continue
            asked: str = batch.model_names[index]
            model = aliases.resolve(name)
            if model is None:
                why = unloadable.refusal(model, name)
                unloadable.fail(batch, self.worker, index, unloadable.lost(asked, why))
            elif ModelState.DOWNLOADING in (model.state, model.base and model.base.state):
                fetching = True
            else:
                found.append(Segment(index, asked, model))
        if not found:
            self._end(batch, RunEnd.FETCHING if fetching else RunEnd.DONE)
        return found

    def _opened(self, batch: Batch, priority: int, segments: list[Segment]) -> Member:
        """The member, with its input file open until it leaves, so that it can be read even if it is removed meanwhile.

        Raises blobs.BlobGone, InputUnreadable.
        """
        file = batch.input_file
        if file is None or file.purged_at:
            raise blobs.BlobGone
        with ExitStack() as stack:
            try:
                descriptor = stack.enter_context(blobs.opened(file.blob))
            except blobs.troubles() as error:
                raise temporary_errors.InputUnreadable from error
            return Member(batch, priority, segments, stack.pop_all(), descriptor)
        raise AssertionError

    def _start(self, member: Member) -> bool:
        """The first request of a batch is about to be sent. False when it has left."""
        if member.started:
            return True
        with self._alone(member):
            if all(member.batch.start(self.worker, one.asked, one.model) for one in member.segments):
                member.started = True
                return True
            self.let_go(member, RunEnd.CLOSED)
        return False

    def _warn(self, member: Member, engine: Engine, window: int) -> None:
        words = shortfall(engine, window) if member.batch.pending > window else ""
        if words and member.batch.pk not in self._said:
            self._said.add(member.batch.pk)
            member.batch.note(words, "warning")

    # The engine

    def _load(self, members: list[Member], on_progress: Progress) -> Engine | None:
        """Load what these batches need. The requests of a model that cannot be loaded fail. None when nothing is left.

        Raises what on_progress raises.
        """
        before, engine = self.gpu.engine, None
        everybody = {*members, *self.members.values()}
        self.gpu.work = replace(self.work, asked=tuple({one.model.name for each in everybody for one in each.segments}))
        for model in {one.model.pk: one.model for member in members for one in member.segments}.values():
            try:
                self._loading = model.name
                engine = self.gpu.load(model, on_progress)
                if self.deaths.idle >= engine_deaths.IDLE:
                    raise LoadError(f"the engine ended {engine_deaths.IDLE} times by itself")
                if engine is not before:
                    before = engine
                    for member in members:
                        member.batch.note(loaded_words(model, engine))
            except LoadError as error:
                self._cannot_load(model, error, members)
        return engine if any(member.segments for member in members) else None

    def _on_progress(self, doing: str) -> None:
        if time.monotonic() - self._looked > PROGRESS_SECONDS:
            self._look_at_all()
            self._show(WorkerState.LOADING, f"Loading {self._loading}: {doing}")

    def _not_now(self, doing: str) -> None:
        """The engine died while a batch was joining; it is started again for all of them."""
        raise Interrupted

    def _look_at_all(self) -> None:
        """Renew the leases. Raises Interrupted when no batch needs the load any more."""
        stop = RunEnd.STOPPED if self.gpu.stopping() else RunEnd.PAUSED if pauses.current() else None
        signals = commit.commit_all(self.worker, [commit.Entry(pk) for pk in self.members])
        for pk, signal in signals.items():
            member = self.members[pk]
            if signal.lost:
                self._forget(member)
                claims.note_lost_lease(member.batch, self.gpu.worker)
            elif end := RunEnd.CLOSED if signal.closed else stop:
                self.let_go(member, end)
        if not self.members:
            raise Interrupted
        self._looked = time.monotonic()

    def _cannot_load(self, model: Model, error: LoadError, members: Iterable[Member]) -> None:
        """Fail the requests for this model."""
        log.warning("Model %s: it could not be loaded: %s", model.name, error)
        for member in members:
            with self._alone(member):
                for one in [one for one in member.segments if one.model == model]:
                    unloadable.fail(member.batch, self.worker, one.index, unloadable.lost(one.asked, error.public))
                    member.segments.remove(one)
                if not member.segments:
                    self.let_go(member, RunEnd.DONE)

    def _after_death(self, death: EngineDied) -> None:
        """Count the death for the requests in flight. One that was alone, and had seen enough, fails as the cause."""
        self._looked = 0.0  # the load that follows is shown at once
        by_batch: dict[str, list[Sent]] = {}
        for sent in death.in_flight:
            by_batch.setdefault(sent.member.batch.pk, []).append(sent)
        given_up = self.deaths.barren >= engine_deaths.BARREN
        for pk, sent in by_batch.items():
            if (member := self.members.get(pk)) is None:
                continue
            with self._alone(member):
                self._count_death(member, sent, death)
                if given_up:
                    self._give_up(member, death.how)
        if given_up:
            self.deaths.barren = 0  # the others have their chance

    def _count_death(self, member: Member, sent: list[Sent], death: EngineDied) -> None:
        rows = [one.row.id for one in sent]
        if len(death.in_flight) == 1 and sent[0].level >= engine_deaths.GUILTY:
            message = "The engine died each time this request was running, the last time with no other."
            commit.commit(member.batch.pk, self.worker, [failure(row, "engine_crashed", message) for row in rows])
        else:
            commit.mark_crashed(member.batch.pk, self.worker, rows)
        beside = "" if len(rows) == len(death.in_flight) else " of this batch, and others,"
        member.batch.note(f"The engine died with {len(rows)} requests{beside} in flight: {death.how}.", "warning")

    def _give_up(self, member: Member, how: str) -> None:
        message = self.deaths.given_up(how)
        lost: LineError = {"code": "engine_keeps_dying", "line": None, "message": message, "param": None}
        for one in member.segments:
            if self._has_pending(member.batch, one.index):
                unloadable.fail(member.batch, self.worker, one.index, lost)

    def show_running(self) -> None:
        """Show what runs in the worker's row."""
        names = sorted({one.model.name for member in self.members.values() for one in member.segments})
        count = len(self.members)
        what = "a batch" if count == 1 else f"{count} batches"
        self._show(WorkerState.RUNNING, f"Running {what} on {', '.join(names)}")

    def _show(self, state: WorkerState, activity: str) -> None:
        self.gpu.show(state, activity, replace(self.work, id=next(iter(self.members), self.work.id)))

    # Batches leave

    def _drop_answered(self, member: Member) -> None:
        """Without a request that is left, no engine is loaded, or started again after its death."""
        member.segments = [one for one in member.segments if self._has_pending(member.batch, one.index)]
        if not member.segments:
            self.let_go(member, RunEnd.DONE)

    def let_go(self, member: Member, end: RunEnd) -> None:
        """End the part of a batch in this turn."""
        self._forget(member)
        self._end(member.batch, end)
        if member.waited > LONG_WAIT_SECONDS:
            log.info("Batch %s: it has waited up to %.1f s between two of its requests", member.batch.pk, member.waited)

    def _forget(self, member: Member) -> None:
        self.members.pop(member.batch.pk, None)
        member.close()

    def _end(self, batch: Batch, end: RunEnd) -> None:
        """Finish a batch if its last request has ended meanwhile, else release it."""
        if not batch.finish(self.worker):
            if end in DRAIN:  # said first: whoever sees the batch released finds the reason
                batch.note(f"Interrupted: {end.value}.")
            batch.release(self.worker)
        self.gpu.held.discard(batch.pk)
        log.info("Batch %s: it leaves the engine: %s", batch.pk, end.value)

    def _has_pending(self, batch: Batch, index: int) -> bool:
        return batch.requests.filter(state=RequestState.PENDING, model_index=index).exists()
