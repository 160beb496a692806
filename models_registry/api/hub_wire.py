"""What comes from the hub, and what is left on the disk, as JSON: downloads, their plans, access tokens, leftovers."""

from typing import Literal, TypedDict

from models_registry.api.wire import shown_reason
from models_registry.catalog.remove import Leftover
from models_registry.hub import downloads
from models_registry.hub.downloads import DownloadPlan
from models_registry.models import Download, HubToken, Model
from vbs.openai.schema import unix


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
