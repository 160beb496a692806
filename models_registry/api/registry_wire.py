"""The registry's rows as JSON. Every field is always there; it is null without a value. Times are Unix seconds.

Only operators see what tells of another project's work: who asked for it, and which batch it was.
"""

from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypedDict

from django.conf import settings

from models_registry.api.wire import model_object, shown_reason
from models_registry.catalog import folders, remove
from models_registry.catalog.paste import Proposal
from models_registry.catalog.remove import Leftover
from models_registry.engine.spec import EngineKind
from models_registry.fit.formula import Fit, Need
from models_registry.hub import downloads
from models_registry.hub.downloads import DownloadPlan
from models_registry.models import Alias, Download, HubToken, Model
from models_registry.serving.engines import Availability
from models_registry.speed import speeds
from vbs.openai.schema import ModelObject, unix


class DownloadObject(TypedDict):
    object: Literal["registry.download"]
    model: str
    state: str
    reason: str | None
    doing: str | None
    commit: str | None
    bytes_total: int
    bytes_done: int
    bytes_per_second: float | None
    attempts: int
    created_at: int
    started_at: int | None
    finished_at: int | None


class RegistryModel(ModelObject):
    """A model as /v1/models shows it, with more fields for operators."""

    kind: str
    source: str | None
    remote_name: str | None
    pool: list[str]
    hub_id: str | None
    hub_revision: str | None
    hub_file: str | None
    hub_token: str | None
    engine_args: dict[str, Any]
    notes: str | None
    input_price: float | None
    output_price: float | None
    currency: str
    allow_pickle: bool
    own_code: bool
    lora_rank: int | None
    adapters: list[str]
    download: DownloadObject | None


class RegistryModelList(TypedDict):
    object: Literal["list"]
    data: list[RegistryModel]


class RefusedOption(TypedDict):
    option: str
    reason: str


class CreatedModel(RegistryModel):
    """refused: options of the pasted command that a model may not set. They were left out."""

    refused: list[RefusedOption]


class RemovalObject(TypedDict):
    """What was deleted, or with dry_run would be. needed_by: why the model cannot be removed."""

    id: str
    object: Literal["registry.removal"]
    deleted: bool
    folder: str | None
    files: int
    bytes: int
    needed_by: list[str]


class NeedObject(TypedDict):
    """The memory that a model needs, in bytes; on each GPU when several share the model."""

    weights: int
    cache: int
    lora: int
    process: int
    working: int
    correction: int
    total: int


class PlannedFile(TypedDict):
    path: str
    size: int


class PlanObject(TypedDict):
    """What a download takes, in bytes. present: how much of `bytes` is here already. converted: about how much a
    conversion to a folder takes in addition. need: how much more disk space is needed.

    promised: what the other downloads still take. free_after: the free disk space after all of them. fits: whether
    there is any. made_for: the base that an adapter's own files name.
    """

    object: Literal["registry.plan"]
    model: str
    commit: str
    files: list[PlannedFile]
    bytes: int
    present: int
    converted: int
    need: int
    promised: int
    disk_free: int
    free_after: int
    fits: bool
    license: str | None
    gated: bool
    made_for: str | None


class FitObject(TypedDict):
    """Whether a model fits. change: engine options that make it fit. loads: how many measured loads the correction
    is worked out from.

    need: the memory with `context` and `change`. asked: the memory without them. resident: bytes right after a load.
    room_bytes: the available memory. room_cache: how much of it is reserved for the KV cache. room_host: main memory
    that can hold weights which the GPU has no memory for.
    """

    object: Literal["registry.fit"]
    model: str
    verdict: str
    text: str
    context: int
    sequences: int
    change: dict[str, Any]
    need: NeedObject
    asked: NeedObject
    resident: int | None
    room_bytes: int
    room_kind: str
    room_cache: int | None
    room_host: int
    loads: int


class AliasObject(TypedDict):
    id: str
    object: Literal["registry.alias"]
    model: str
    changed_at: int


class AliasList(TypedDict):
    object: Literal["list"]
    data: list[AliasObject]


class AddedDemo(RegistryModel):
    """new: false when the model was there before. steps: messages about what was done."""

    new: bool
    steps: list[str]


class LeftoverObject(TypedDict):
    """A folder that this server made and no model uses. what: a sentence about what it is."""

    id: str
    object: Literal["registry.leftover"]
    folder: str
    what: str
    bytes: int
    files: int


class LeftoverList(TypedDict):
    object: Literal["list"]
    data: list[LeftoverObject]


class TokenObject(TypedDict):
    """An access token of the hub, without its secret. models: the models that use it."""

    id: str
    object: Literal["registry.token"]
    models: list[str]


class DeletedToken(TokenObject):
    deleted: Literal[True]


class ProposalObject(TypedDict):
    """The parameters for POST /v1/registry/models that a pasted text gives; `source` or `hub_id` is null."""

    object: Literal["registry.proposal"]
    name: str
    source: str | None
    hub_id: str | None
    revision: str | None
    file: str | None
    task: str | None
    engine_args: dict[str, Any]
    refused: list[RefusedOption]


def registry_model(
    model: Model,
    loaded: set[str],
    speed: speeds.Speed | None = None,
    availability: Availability | None = None,
    *,
    for_operator: bool,
) -> RegistryModel:
    """Only an operator sees where the model's files are, and the server of a remote model."""
    download: Download | None = getattr(model, "download", None)
    return {
        **model_object(model, loaded, speed, for_operator, availability),
        "kind": model.kind,
        "source": (model.source or None) if for_operator else None,
        "remote_name": (model.remote_name or None) if for_operator else None,
        "pool": model.pool if for_operator else [],
        "hub_id": model.hub_id or None,
        "hub_revision": model.hub_revision or None,
        "hub_file": model.hub_file or None,
        "hub_token": model.hub_token.name if model.hub_token and for_operator else None,
        "engine_args": model.engine_args if for_operator or model.kind == EngineKind.VLLM else {},
        "notes": model.notes or None,
        "input_price": _price(model.input_price),
        "output_price": _price(model.output_price),
        "currency": settings.VBS_CURRENCY,
        "allow_pickle": model.allow_pickle,
        "own_code": has_own_code(model),
        "lora_rank": model.lora_rank,
        "adapters": [adapter.name for adapter in model.adapters.all()],
        "download": download_object(download, for_operator) if download else None,
    }


def _price(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def has_own_code(model: Model) -> bool:
    """Whether Python files come with the model, which the engine runs only with trust_remote_code."""
    if model.kind != EngineKind.VLLM or model.base or not model.source:
        return False
    try:
        return folders.own_code(folders.config(Path(model.source)))
    except folders.ModelError:  # its files are gone or damaged; the engine says so when it starts
        return False


def download_object(download: Download, for_operator: bool) -> DownloadObject:
    return {
        "object": "registry.download",
        "model": download.model.name,
        "state": download.state,
        "reason": shown_reason(download.reason, for_operator),
        "doing": downloads.doing(download.model, download) or None,
        "commit": download.commit or None,
        "bytes_total": download.bytes_total,
        "bytes_done": download.bytes_done,
        "bytes_per_second": download.bytes_per_second,
        "attempts": download.attempts,
        "created_at": int(download.created_at.timestamp()),
        "started_at": unix(download.started_at),
        "finished_at": unix(download.finished_at),
    }


def plan_object(model: Model, plan: DownloadPlan) -> PlanObject:
    return {
        "object": "registry.plan",
        "model": model.name,
        "commit": plan.commit,
        "files": [{"path": file.path, "size": file.size} for file in plan.files],
        "bytes": plan.bytes,
        "present": plan.present,
        "converted": plan.converted,
        "need": plan.need,
        "promised": plan.promised,
        "disk_free": plan.disk_free,
        "free_after": plan.free_after,
        "fits": plan.fits,
        "license": plan.license or None,
        "gated": plan.gated,
        "made_for": plan.made_for or None,
    }


def removal_object(model: Model, going: remove.Preview, needed_by: list[str], deleted: bool) -> RemovalObject:
    return {
        "id": model.name,
        "object": "registry.removal",
        "deleted": deleted,
        "folder": str(going.folder) if going.folder else None,
        "files": going.files,
        "bytes": going.bytes,
        "needed_by": needed_by,
    }


def need_object(need: Need) -> NeedObject:
    return {
        "weights": need.weights,
        "cache": need.cache,
        "lora": need.lora,
        "process": need.process,
        "working": need.working,
        "correction": need.correction,
        "total": need.total,
    }


def fit_object(name: str, found: Fit) -> FitObject:
    """name: a model's name, or a folder's path."""
    return {
        "object": "registry.fit",
        "model": name,
        "verdict": found.verdict.value,
        "text": found.text,
        "context": found.context,
        "sequences": found.sequences,
        "change": dict(found.change),
        "need": need_object(found.need),
        "asked": need_object(found.asked),
        "resident": found.resident,
        "room_bytes": found.available.total,
        "room_kind": found.available.kind,
        "room_cache": found.available.cache,
        "room_host": found.available.host,
        "loads": found.loads,
    }


def alias_object(alias: Alias) -> AliasObject:
    return {
        "id": alias.name,
        "object": "registry.alias",
        "model": alias.model.name,
        "changed_at": int(alias.changed_at.timestamp()),
    }


def leftover_object(leftover: Leftover) -> LeftoverObject:
    return {
        "id": leftover.id,
        "object": "registry.leftover",
        "folder": str(leftover.folder),
        "what": leftover.what,
        "bytes": leftover.bytes,
        "files": leftover.files,
    }


def token_object(token: HubToken) -> TokenObject:
    """An access token without its secret."""
    models = Model.objects.filter(hub_token=token).values_list("name", flat=True)
    return {"id": token.name, "object": "registry.token", "models": list(models)}


def refused_options(found: Proposal | None) -> list[RefusedOption]:
    return [{"option": option, "reason": shown_reason} for option, shown_reason in found.refused] if found else []


def proposal_object(found: Proposal) -> ProposalObject:
    return {
        "object": "registry.proposal",
        "name": found.name,
        "source": None if found.on_hub else found.source,
        "hub_id": found.source if found.on_hub else None,
        "revision": found.revision or None,
        "file": found.file or None,
        "task": found.task,
        "engine_args": found.engine_args,
        "refused": refused_options(found),
    }
