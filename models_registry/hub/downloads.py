"""Models of a hub: register one, plan its download, and start, pause, resume, cancel or retry it.

A .gguf file of this machine that a worker converts is handled in the same way, with nothing to fetch. Every function
here changes rows, and may be repeated; `download_run` fetches the bytes, on the io cluster.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from models_registry.catalog import allowed, demo, partial_files, rules
from models_registry.catalog.add import register
from models_registry.catalog.folders import ModelError
from models_registry.engine.spec import EngineKind
from models_registry.hub import adapters, client, tokens, transfer
from models_registry.hub import files as hub_files
from models_registry.hub.files import HubFile
from models_registry.models import OPEN_DOWNLOADS, Download, DownloadState, HubToken, Model, ModelState, Task
from vbs.broker import wake
from vbs.leases import FREE, RELEASED
from vbs.places import PROGRAM
from vbs.run import space

log = logging.getLogger(__name__)

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
WAITING = Q(state=DownloadState.QUEUED) | Q(state=DownloadState.RUNNING) & FREE
IDLE: dict[str, Any] = RELEASED | {"bytes_per_second": None}


@dataclass(frozen=True)
class DownloadPlan:
    """What fetching a model takes, in bytes. present: those of `bytes` that are on the disk already.

    converted: an estimate of what the folder made from a .gguf file takes. promised: what other downloads will still
    take. gated: access has to be asked for on the hub. made_for: the base that an adapter names, which may have another
    name here; or empty.
    """

    commit: str
    files: list[HubFile]
    bytes: int
    present: int
    converted: int
    promised: int
    disk_free: int
    license: str
    gated: bool
    made_for: str = ""

    @property
    def need(self) -> int:
        return self.bytes - self.present + self.converted

    @property
    def free_after(self) -> int:
        """Bytes of the disk that are free after this and all other downloads; below the reserve it does not fit."""
        return self.disk_free - self.promised - self.need

    @property
    def fits(self) -> bool:
        return space.fits(self.promised + self.need, self.disk_free)


def add(
    name: str,
    hub_id: str,
    *,
    revision: str = "",
    file: str = "",
    task: str | None = None,
    engine_args: dict[str, Any] | None = None,
    base: Model | None = None,
    token: HubToken | None = None,
    license: str = "",
    notes: str = "",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Model:
    """Register a model of the hub as a draft, without asking the hub. Raises ModelError.

    revision: a branch, tag or commit; `main` by default. file: the one .gguf file to use. task: read from the files by
    default. base: the model whose LoRA adapter the repository holds. token: an access token, for a private or gated
    model; HF_TOKEN by default.
    """
    rules.check_name(name, task)
    partial_files.check_length(name)
    _check_source(hub_id, revision, file)
    row = Model(
        name=name,
        state=ModelState.DRAFT,
        hub_id=hub_id,
        hub_revision=revision,
        hub_file=file,
        hub_token=token,
        license=license,
        notes=notes,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    rules.check_texts(row)
    options = engine_args or {}
    if base:
        rules.check_adapter(row, base, task, options)
        if file:
            raise ModelError(f"{file!r} is a whole model, but a base is for an adapter: leave out one of them")
        row.base, row.kind, row.context_length = base, base.kind, base.context_length
        return register(row, base.task, {})
    allowed.check(row)
    return register(row, task or Task.CHAT, rules.check_options(EngineKind.VLLM, options))


def add_offered_demo() -> tuple[Model, bool]:
    """The demo model that pages offer, and whether it is new. It is registered, and a worker fetches and converts it;
    one that failed is queued again. Raises ModelError."""
    offered = demo.OFFERED
    if there := Model.objects.filter(name=offered.name).first():
        if there.state in (ModelState.DRAFT, ModelState.FAILED):
            start(there)
        return there, False
    row = Model(name=offered.name, state=ModelState.DRAFT, source=str(demo.offered_source()), license=offered.license)
    with transaction.atomic():
        register(row, Task.CHAT, rules.check_options(EngineKind.VLLM, dict(offered.engine_args)))
        start(row)
    return row, True


def plan(model: Model) -> DownloadPlan:
    """What fetching or converting a model takes, asked of the hub. The model need not be saved. Raises ModelError."""
    _check_can_come(model)
    if is_conversion(model):
        return _plan_conversion(model)
    if model.base:
        rules.check_base(model.base)
    found = client.listing(repository_of(model))
    files = _choose(model, found.files)
    sizes = {file.sum: file for file in files}.values()  # files with the same content are fetched once
    folder = partial_files.folder_of(model.name)
    return DownloadPlan(
        commit=found.commit,
        files=files,
        bytes=sum(file.size for file in sizes),
        present=sum(transfer.present(folder, file) for file in sizes),
        converted=_converted(files[0]) if model.hub_file else 0,
        promised=_promised(model),
        disk_free=_disk_free(),
        license=found.license,
        gated=found.gated,
        made_for=adapters.made_for(repository_of(model, found.commit), files) if model.base else "",
    )


def start(model: Model) -> Download:
    """Queue the download of a model; returns the one that is under way, if there is one. Raises ModelError, also when
    the disk has no space for it."""
    _check_can_come(model)
    model.refresh_from_db()
    if model.state == ModelState.DOWNLOADING:
        return _under_way(model)
    if model.state == ModelState.READY:
        raise ModelError(f"{model.name} is ready: there is nothing to fetch")
    planned = plan(model)
    if not planned.fits:
        raise ModelError(
            f"the disk of {settings.MODELS_DIR} cannot hold {model.name}: it needs {_size(planned.need)}"
            f"{f', other downloads still need {_size(planned.promised)},' if planned.promised else ''} and "
            f"{_size(space.RESERVE)} stay free, but only {_size(planned.disk_free)} are: "
            f"free some ({PROGRAM} model remove)"
        )
    if planned.gated:  # the hub lists a gated repository's files to everybody
        client.check_access(repository_of(model, planned.commit), planned.files[0].path)
    with transaction.atomic():
        state = _lock(model)
        if state == ModelState.DOWNLOADING:  # another call was faster
            return _under_way(model)
        if state == ModelState.READY:
            raise ModelError(f"{model.name} is ready: there is nothing to fetch")
        Model.objects.filter(pk=model.pk).update(state=ModelState.DOWNLOADING, reason="")
        fresh: dict[str, Any] = {
            "state": DownloadState.QUEUED,
            "reason": "",
            "commit": planned.commit,
            "files": [file.as_json() for file in planned.files],
            "bytes_total": planned.bytes,
            "bytes_done": planned.present,
            "attempts": 0,
            "created_at": Now(),
            "started_at": None,
            "finished_at": None,
        }
        Download.objects.update_or_create(model=model, defaults=fresh | IDLE)
        if not model.license and planned.license:
            Model.objects.filter(pk=model.pk, license="").update(license=planned.license)
        wake("fetch", str(model.pk))
    log.info("Download of %s: queued, %s in %d files", model.name, _size(planned.bytes), len(planned.files))
    model.refresh_from_db()
    return Download.objects.get(model=model)


def pause(model: Model) -> None:
    """Pause the download; what is fetched stays, and `resume` goes on from there. Raises ModelError."""
    changed = Download.objects.filter(model=model, state__in=(DownloadState.QUEUED, DownloadState.RUNNING)).update(
        state=DownloadState.PAUSED, **IDLE
    )
    if not changed:
        raise _cannot(model, "paused")


def resume(model: Model) -> None:
    """Queue a paused download again. Raises ModelError."""
    with transaction.atomic():
        if not Download.objects.filter(model=model, state=DownloadState.PAUSED).update(state=DownloadState.QUEUED):
            raise _cannot(model, "resumed")
        wake("fetch", str(model.pk))


def cancel(model: Model) -> None:
    """Cancel the download: the model is a draft again, and what is fetched is removed. Raises ModelError."""
    with transaction.atomic():
        _lock(model)
        changed = Download.objects.filter(model=model, state__in=partial_files.KEPT).update(
            state=DownloadState.CANCELLED, reason="", bytes_done=0, finished_at=Now(), **IDLE
        )
        if not changed:
            raise _cannot(model, "cancelled")
        Model.objects.filter(pk=model.pk).update(state=ModelState.DRAFT, reason="")
        wake("sweep")  # batches that have waited for the model can fail now
    model.refresh_from_db()
    partial_files.clean(model.name)


def retry(model: Model) -> Download:
    """Queue a failed download again; files that are unchanged on the hub are not fetched twice. Raises ModelError."""
    if not Download.objects.filter(model=model, state=DownloadState.FAILED).exists():
        raise _cannot(model, "retried")
    return start(model)


def sweep() -> None:
    """Wake downloads that wait or whose worker is gone, and remove files that no download needs any more."""
    wake_next()
    partial_files.sweep()


def wake_next() -> None:
    """Wake as many waiting downloads as may run at once."""
    running = Download.objects.filter(state=DownloadState.RUNNING).held().count()
    for pk in waiting().values_list("model_id", flat=True)[: max(0, most_at_once() - running)]:
        wake("fetch", str(pk))


def waiting() -> QuerySet[Download]:
    """The downloads that wait, in the order of their queue."""
    return Download.objects.filter(WAITING).order_by("created_at", "pk")


def most_at_once() -> int:
    """How many downloads run at once: where there are several io workers, one stays free for validation."""
    return max(1, min(settings.VBS_DOWNLOADS, settings.VBS_IO_WORKERS - 1))


def repository_of(model: Model, commit: str = "") -> client.HubRepository:
    """The model's repository, with the access token for it. Raises ModelError."""
    token = tokens.reveal(model.hub_token) if model.hub_token else settings.HF_TOKEN.strip()
    return client.HubRepository(model.hub_id, commit or model.hub_revision, token)


def is_conversion(model: Model) -> bool:
    """Is its source a .gguf file of this machine that is not converted yet?"""
    return not model.hub_id and model.state != ModelState.READY and model.source.lower().endswith(".gguf")


def doing(model: Model, download: Download) -> str:
    """What is done with the model after its bytes have come, in words; empty before that, and when nothing is done."""
    if download.state != DownloadState.RUNNING or download.bytes_done < download.bytes_total:
        return ""
    if model.hub_id and not model.hub_file:
        return "being put in its place"
    is_here = not demo.is_offered(model) or demo.offered_source().exists()
    return "being converted" if is_here else "being fetched"


def _check_can_come(model: Model) -> None:
    partial_files.check_length(model.name)
    if is_conversion(model):
        return
    if not model.hub_id:
        raise ModelError(f"{model.name} is not from a hub: there is nothing to fetch")
    _check_source(model.hub_id, model.hub_revision, model.hub_file)


def _check_source(hub_id: str, revision: str, file: str) -> None:
    if not HUB_ID.fullmatch(hub_id) or ".." in hub_id:
        raise ModelError(f"{hub_id[:200]!r} is not the id of a model of the hub: it looks like organisation/name")
    if revision and (not REVISION.fullmatch(revision) or ".." in revision):
        raise ModelError(f"{revision[:200]!r} is not the name of a branch, tag or commit: give one of these")
    if file:
        hub_files.check_path(file, hub_id)
        if not file.lower().endswith(".gguf"):
            raise ModelError(f"{file!r} is not a .gguf file: leave it out, and the needed files are chosen")
        if hub_files.SHARD.fullmatch(file):
            raise ModelError(f"{file!r} is one of several parts: only a .gguf file in one piece can be used")


def _lock(model: Model) -> str:
    """Lock the model's row for this transaction. Returns its state."""
    state = Model.objects.select_for_update().filter(pk=model.pk).values_list("state", flat=True).first()
    if state is None:
        raise ModelError(f"the model {model.name} has been removed")
    return state


def _under_way(model: Model) -> Download:
    download = Download.objects.get(model=model)
    if download.state == DownloadState.PAUSED:
        raise ModelError(f"the download of {model.name} is paused: resume it")
    return download


def _cannot(model: Model, what: str) -> ModelError:
    state = Download.objects.filter(model=model).values_list("state", flat=True).first()
    if state is None:
        return ModelError(f"{model.name} has no download that could be {what}: it is {model.state}")
    return ModelError(f"the download of {model.name} is {state}: it cannot be {what}")


def _promised(model: Model) -> int:
    """Bytes that the downloads of other models will still take."""
    others = Download.objects.filter(state__in=OPEN_DOWNLOADS).exclude(model_id=model.pk)
    left = others.annotate(left=F("bytes_total") - F("bytes_done")).values_list("left", flat=True)
    return sum(max(0, one) for one in left)


def _plan_conversion(model: Model) -> DownloadPlan:
    source = Path(model.source)
    try:
        file = HubFile(source.name, source.stat().st_size)
    except OSError as error:
        if not demo.is_offered(model):
            words = f"{source} cannot be read ({error.strerror}): put it back, or remove {model.name}"
            raise ModelError(words) from error
        file = HubFile(source.name, demo.OFFERED_BYTES)
    return DownloadPlan(
        commit="",
        files=[],
        bytes=0,
        present=0,
        converted=_converted(file),
        promised=_promised(model),
        disk_free=_disk_free(),
        license="",
        gated=False,
    )


def _choose(model: Model, files: list[HubFile]) -> list[HubFile]:
    if model.base:
        return hub_files.choose_adapter(files, model.hub_id)
    return hub_files.choose(files, model.hub_id, model.hub_file, model.allow_pickle, own_code=model.trust_remote_code)


def _converted(file: HubFile) -> int:
    """Bytes of a .gguf file's weights in bfloat16; the file's name says with how many bits they are stored."""
    bits = re.search(r"(?:^|[-._])(?:I?Q|BF|F|MXFP)(\d{1,2})", file.path.upper())
    return file.size * 16 // min(max(int(bits[1]) if bits else 4, 1), 16)


def _disk_free() -> int:
    folder = Path(settings.MODELS_DIR)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return space.of(folder).free
    except OSError as error:
        raise ModelError(f"{folder} cannot be used: {error}") from error


def _size(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"
