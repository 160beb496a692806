"""A worker's run of a download: claim it, fetch what is missing, and make the model ready.

While the bytes come, a ticker records the progress, renews the lease, and notices when somebody has paused, cancelled
or removed the download, or when this worker has to stop. If the worker is killed, the next run goes on with the files
in the folder. The lock of the model's folder is held as long as anything is written there, so a run that has lost its
lease does no harm.
"""

import asyncio
import errno
import logging
import os
import shutil
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce, Now

from models_registry.catalog import demo, folders, made_folders, partial_files, rules, sources
from models_registry.catalog.folders import ModelError
from models_registry.catalog.made_folders import Progress
from models_registry.hub import client as hub
from models_registry.hub import downloads, transfer
from models_registry.hub.client import HubRepository
from models_registry.hub.files import HubFile
from models_registry.models import Download, DownloadState, Model, ModelState, Task
from models_registry.rates import Meter
from vbs.broker import wake
from vbs.database import outages
from vbs.database.outages import DATABASE_ERRORS, first_line, insist
from vbs.logs import one_line
from vbs.run import space

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
RATE_SECONDS = 5.0  # over which the speed is measured
TURN_SECONDS = 3600.0  # after which the run ends and the download waits again, before the task queue ends the task
ALONE_TURN_SECONDS = 60.0  # the same where a single io worker has all other tasks to do as well
LOCK_SECONDS = 5.0  # for which a run waits for the folder's lock
MOST_REASON = 2000  # characters
CLAIM_LOCK = 7_338_102  # PostgreSQL's advisory lock for claims, so that running downloads can be counted


class DownloadLost(Exception):
    """The lease is lost: the download was paused, cancelled, removed, or taken over."""


class RunOver(Exception):
    """The run has to end, and the download has to wait again."""


def run(model_id: int, worker_id: uuid.UUID) -> None:
    """Run the download, if it can be claimed. It is idempotent. Errors are written into its row; only those of the
    database are raised."""
    download = _claim(model_id, worker_id)
    if download is None:
        return
    run = DownloadRun(download, worker_id)
    try:
        run.run()
    except DownloadLost:
        log.info("Download of %s: it was stopped", run.model)
    except RunOver:
        run.give_back()
    except DATABASE_ERRORS:
        raise
    except ModelError as error:
        run.fail(str(error))
    except OSError as error:
        run.fail(_disk_error(error))
    except Exception as error:
        log.exception("Download of %s: an unforeseen error", run.model)
        run.fail(f"this server met an error ({type(error).__name__}), which is in its log: report it")
    insist(downloads.wake_next)


def _claim(model_id: int, worker_id: uuid.UUID) -> Download | None:
    """Claim the download. None when it does not wait, another worker has it, or as many as may run do."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [CLAIM_LOCK])
        others = Download.objects.filter(state=DownloadState.RUNNING).held()
        if others.exclude(model_id=model_id).count() >= downloads.most_at_once():
            return None
        ours = Q(state=DownloadState.RUNNING, leased_by=worker_id)  # claimed before the database could not be reached
        taken = Download.objects.filter(downloads.WAITING | ours, model_id=model_id).claim(
            worker_id,
            state=DownloadState.RUNNING,
            started_at=Coalesce("started_at", Now()),
            bytes_per_second=None,
        )
    return Download.objects.select_related("model__hub_token", "model__base").get(model_id=model_id) if taken else None


def _disk_error(error: OSError) -> str:
    folder = partial_files.root()
    if space.is_full(error):
        return f"{space.WORDS} of {folder}: free some space, then retry. What is fetched is kept"
    return f"{folder} cannot be written ({error.strerror or error}): correct that, then retry"


class DownloadRun:
    """One run. download: as it was claimed."""

    def __init__(self, download: Download, worker_id: uuid.UUID) -> None:
        self.model = download.model
        self.commit = download.commit
        self.files = [HubFile.from_json(one) for one in download.files]
        self.folder = partial_files.folder_of(self.model.name)
        self.target = made_folders.path_of(self.model.name)
        self.mine = Download.objects.filter(model_id=self.model.pk, state=DownloadState.RUNNING).of(worker_id)
        self.done = self.began = 0  # bytes
        self.placing = False  # while the folder is made, which cannot be interrupted
        self.ends = time.monotonic() + (TURN_SECONDS if settings.VBS_IO_WORKERS > 1 else ALONE_TURN_SECONDS)
        self.meter: Meter | None = None  # of bytes, once it is known which are here already

    def run(self) -> None:
        """Raises DownloadLost, RunOver, ModelError, OSError, and errors of the database."""
        if self.files:
            self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            held = self._lock(stack)
            if held is None:
                log.info(
                    "Download of %s: another process still works on it, so it is tried again when the lease has run "
                    "out",
                    self.model,
                )
                return
            if other := Model.objects.filter(source=str(self.target)).exclude(pk=self.model.pk).first():
                raise ModelError(f"{self.target} is the folder of {other.name}: register it under another name")
            repository = downloads.repository_of(self.model, self.commit)
            try:
                found = async_to_sync(self._bring_and_make)(repository, held)
                self._finish(found)
            except DownloadLost:
                Download.objects.filter(model_id=self.model.pk, state=DownloadState.PAUSED).update(bytes_done=self.done)
                partial_files.clean_locked(self.model.name)
                raise

    def give_back(self) -> None:
        insist(lambda: self.mine.update(state=DownloadState.QUEUED, bytes_done=self.done, **downloads.IDLE))

    def fail(self, reason: str) -> None:
        reason = one_line(reason)[:MOST_REASON]

        def step() -> None:
            with transaction.atomic():
                Model.objects.select_for_update().filter(pk=self.model.pk).first()
                failed = {
                    "state": DownloadState.FAILED,
                    "reason": reason,
                    "finished_at": Now(),
                    "bytes_done": self.done,
                }
                if self.mine.update(**failed, **downloads.IDLE):
                    Model.objects.filter(pk=self.model.pk).update(state=ModelState.FAILED, reason=reason)
                    wake("sweep")  # what has waited for it can end
                    log.warning("Download of %s: it has failed: %s", self.model, reason)

        insist(step)

    def _lock(self, stack: ExitStack) -> int | None:
        """Lock the model's folder. None when another process keeps the lock, such as a conversion."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return stack.enter_context(made_folders.lock(self.target))
            except ModelError:
                if time.monotonic() > deadline or outages.stopping.wait(LOCK_SECONDS / 20):
                    return None

    async def _bring_and_make(self, repository: HubRepository, held: int) -> dict[str, Any]:
        clock = asyncio.create_task(self._watch())
        work = asyncio.create_task(self._work(repository, held))
        try:
            await asyncio.wait({clock, work}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            clock.cancel()
            work.cancel()
            await asyncio.gather(clock, work, return_exceptions=True)
        if work.cancelled():
            clock.result()  # raises the exception that ended it
        return work.result()

    async def _work(self, repository: HubRepository, held: int) -> dict[str, Any]:
        files = list({file.sum: file for file in self.files}.values())
        self.done = self.began = sum(transfer.present(self.folder, file) for file in files)
        self.meter = Meter(RATE_SECONDS, self.done)
        async with hub.client() as client:
            for file in files:
                await transfer.bring(client, repository, file, self.folder, self._came)
        self.placing = True
        return await asyncio.to_thread(self._make, held)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            over = time.monotonic() > self.ends and self.done > self.began  # a run has to fetch at least something
            if (outages.stopping.is_set() or over) and not self.placing:
                raise RunOver
            if not await sync_to_async(self._write_down)() and not self.placing:
                raise DownloadLost

    def _came(self, count: int) -> None:
        self.done += count

    def _write_down(self) -> bool:
        """Record the progress and renew the lease. False when the lease is lost."""
        rate = max(0.0, *self.meter.read(self.done)) if self.meter else None
        try:
            return bool(self.mine.renew(bytes_done=self.done, bytes_per_second=rate))
        except DATABASE_ERRORS as error:  # nobody else can claim it either, and the folder's lock is ours
            log.warning("Download of %s: the database cannot be reached: %s", self.model, first_line(error))
            connection.close()
            return True

    def _make(self, held: int) -> dict[str, Any]:
        """Make the model's folder and put it in place. Returns what its files say about the model. It runs in a
        thread, and may take minutes."""
        if self.model.hub_file:
            (file,) = self.files
            source = self.folder / Path(file.path).name
            source.unlink(missing_ok=True)
            os.link(self.folder / file.sum, source)
            made_folders.make(self.target, source, made_folders.converted, held, self._say)
        elif demo.is_offered(self.model):
            made_folders.make(self.target, demo.bring_offered(self._say), made_folders.converted, held, self._say)
        elif downloads.is_conversion(self.model):
            source = sources.folder(self.model.source, on_server=True)  # checked again, for links may have changed
            if not source.is_file():
                raise ModelError(f"{source} is not there any more: put it back and retry, or cancel this")
            made_folders.make(self.target, source, made_folders.converted, held, self._say)
        else:
            made_folders.make(self.target, self.folder, self._linked, held, self._say)
        try:
            return self._examine()
        except ModelError:
            made_folders.discard(self.target)
            raise

    def _linked(self, source: Path, work: Path, held: int, on_progress: Progress) -> None:
        """Link the fetched files under their names in the repository; they stay here until the model is ready."""
        for file in self.files:
            path = work / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source / file.sum, path)
            except OSError as error:
                if error.errno == errno.EEXIST or space.is_full(error):
                    raise
                shutil.copyfile(source / file.sum, path)  # the file system has no hard links

    def _examine(self) -> dict[str, Any]:
        """What the files say about the model. A task other than chat was set by a person; chat may be the default, so
        then the files decide, if they can."""
        model = self.model
        if model.base:
            return rules.examine_adapter(self.target, model.base)
        facts = folders.examine(self.target, model.task, model.engine_args, model.allow_pickle)
        if model.task == Task.CHAT:
            with suppress(ModelError):
                facts = folders.examine(self.target, None, model.engine_args, model.allow_pickle)
        return {
            "size_bytes": facts.size_bytes,
            "context_length": facts.context_length,
            "task": facts.task,
            "license": model.license or facts.license,
        }

    def _finish(self, found: dict[str, Any]) -> None:
        """Make the model ready, in one transaction. Raises DownloadLost, and ModelError when its base has changed."""

        def step() -> bool:
            with transaction.atomic():
                if self.model.base:  # a base is locked before its adapters, here and wherever it is changed
                    bases = Model.objects.select_for_update().filter(pk=self.model.base.pk)
                    found.update(*(rules.examine_adapter(self.target, base) for base in bases))
                Model.objects.select_for_update().filter(pk=self.model.pk).first()
                done = {"state": DownloadState.DONE, "bytes_done": F("bytes_total"), "finished_at": Now()}
                if self.mine.update(**done, **downloads.IDLE):
                    Model.objects.filter(pk=self.model.pk).update(
                        source=str(self.target), revision=self.commit, state=ModelState.READY, reason="", **found
                    )
                    wake("gpu")  # batches may wait for this model
            return Download.objects.filter(model_id=self.model.pk, state=DownloadState.DONE).exists()

        try:
            ours = insist(step)
        except ModelError:
            made_folders.discard(self.target)
            raise
        if not ours:
            made_folders.discard(self.target)
            raise DownloadLost
        shutil.rmtree(self.folder, ignore_errors=True)
        log.info("Download of %s: the model is ready in %s", self.model, self.target)

    def _say(self, step: str) -> None:
        log.info("Download of %s: %s", self.model, one_line(step))
