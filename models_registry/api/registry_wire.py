"""The registry's rows as JSON. Every field is always there; it is null without a value. Times are Unix seconds.

Only operators see what tells of another project's work: who asked for it, and which batch it was.
"""

from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypedDict

from django.conf import settings

from models_registry.api.hub_wire import DownloadObject, download_object
from models_registry.api.wire import model_object
from models_registry.catalog import folders, remove
from models_registry.catalog.paste import Proposal
from models_registry.engine.spec import EngineKind
from models_registry.fit.formula import Fit, Need
from models_registry.models import Alias, Download, Model
from models_registry.serving.engines import Availability
from models_registry.speed import speeds
from vbs.openai.schema import ModelObject


class RegistryModel(ModelObject):
    """A model as /v1/models shows it, with more fields for operators."""

    kind: str
    source: str | None
    remote_name: str | None
    pool: list[str]
    has_key: bool
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
        "has_key": bool(model.key_secret),
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


def refused_options(found: Proposal | None) -> list[RefusedOption]:
    return [{"option": option, "reason": reason} for option, reason in found.refused] if found else []


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
