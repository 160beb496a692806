"""A server's registry of models, by its HTTP API."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2

from models_registry.api.hub_wire import DeletedToken, DownloadObject, LeftoverObject, PlanObject
from models_registry.api.operations_wire import MeasurementObject, OperationObject
from models_registry.api.registry_wire import (
    AddedDemo,
    AliasObject,
    CreatedModel,
    FitObject,
    RegistryModel,
    RemovalObject,
)
from vbs.cli.remote import Remote, RemoteError

ROOT = "/v1/registry"
ALL = 10**9  # objects of a list
LONG = httpx2.Timeout(60, connect=10, read=3600)  # an answer may come only after files were downloaded and converted
PATIENCE_SECONDS = 120.0  # how long a server may be silent while something is followed
PAUSE_SECONDS = 0.5

T = TypeVar("T")


class Registry(Remote):
    # Models

    def models(self) -> list[RegistryModel]:
        found: list[RegistryModel] = self.ask("GET", f"{ROOT}/models", "list")["data"]
        return found

    def model(self, name: str) -> RegistryModel:
        """The model with this name, which may not be an alias."""
        found: RegistryModel = self.ask("GET", _path("models", name), "model")
        return found

    def own_name(self, name: str) -> str:
        """The name of the model that a name or alias means."""
        return str(self.ask("GET", f"/v1/models/{_quoted(name)}", "model")["id"])

    def add(self, **given: Any) -> CreatedModel:
        found: CreatedModel = self.ask("POST", f"{ROOT}/models", "model", json=given, timeout=LONG)
        return found

    def add_demo(self, key: str) -> AddedDemo:
        found: AddedDemo = self.ask("POST", _path("demo-models", key), "model", timeout=LONG)
        return found

    def edit(self, name: str, **changes: Any) -> RegistryModel:
        found: RegistryModel = self.ask("PATCH", _path("models", name), "model", json=changes)
        return found

    def remove(self, name: str, files: bool, dry_run: bool) -> RemovalObject:
        switches = {"files": files, "dry_run": dry_run}
        params = {switch: "true" for switch, on in switches.items() if on}
        found: RemovalObject = self.ask("DELETE", _path("models", name), "registry.removal", params=params)
        return found

    # Their files

    def plan(self, name: str) -> PlanObject:
        found: PlanObject = self.ask("GET", _path("models", name, "plan"), "registry.plan")
        return found

    def fetch(self, name: str, verb: str) -> DownloadObject:
        """verb: fetch, pause, resume, cancel or retry."""
        found: DownloadObject = self.ask("POST", _path("models", name, verb), "registry.download")
        return found

    def leftovers(self) -> list[LeftoverObject]:
        found: list[LeftoverObject] = self.ask("GET", f"{ROOT}/leftovers", "list")["data"]
        return found

    def clean(self, leftover_id: str) -> None:
        self.ask("DELETE", _path("leftovers", leftover_id), "registry.leftover")

    def keep_token(self, name: str, token: str) -> None:
        self.ask("PUT", _path("tokens", name), "registry.token", json={"token": token})

    def remove_token(self, name: str) -> DeletedToken:
        found: DeletedToken = self.ask("DELETE", _path("tokens", name), "registry.token")
        return found

    # What they need, and how fast they are

    def fit(self, name: str, **load: int) -> FitObject:
        """load: context and sequences."""
        found: FitObject = self.ask("GET", _path("models", name, "fit"), "registry.fit", params=load)
        return found

    def fit_of_folder(self, folder: str, **load: int) -> FitObject:
        found: FitObject = self.ask("GET", f"{ROOT}/fit", "registry.fit", params={"folder": folder, **load})
        return found

    def measurements(self, name: str, limit: int = ALL) -> Iterator[MeasurementObject]:
        """The newest ones first."""
        return self.listed(_path("models", name, "measurements"), limit)

    # What is done with them

    def operate(self, kind: str, name: str, options: dict[str, Any], now: bool) -> OperationObject:
        body = {"options": options, "now": now}
        found: OperationObject = self.ask("POST", _path("models", name, kind), "registry.operation", json=body)
        return found

    def operation(self, operation_id: str) -> OperationObject:
        found: OperationObject = self.ask("GET", _path("operations", operation_id), "registry.operation")
        return found

    def keep(self, operation_id: str) -> OperationObject:
        found: OperationObject = self.ask("POST", _path("operations", operation_id, "keep"), "registry.operation")
        return found

    def operations(self, chosen: dict[str, str], limit: int = ALL) -> Iterator[OperationObject]:
        """The newest ones first. chosen: model, state and `log`."""
        return self.listed(f"{ROOT}/operations", limit, **chosen)

    def cancel(self, operation_id: str) -> OperationObject:
        path = _path("operations", operation_id, "cancel")
        found: OperationObject = self.ask("POST", path, "registry.operation")
        return found

    # Aliases

    def alias(self, name: str) -> AliasObject | None:
        try:
            found: AliasObject = self.ask("GET", _path("aliases", name), "registry.alias")
        except RemoteError as error:
            if error.code == "alias_not_found":
                return None
            raise
        return found

    def point(self, alias: str, model: str) -> None:
        self.ask("PUT", _path("aliases", alias), "registry.alias", json={"model": model})

    def remove_alias(self, alias: str) -> None:
        self.ask("DELETE", _path("aliases", alias), "registry.alias")

    # The server

    def has_worker(self, cluster: str) -> bool:
        return self.ready()["parts"].get(f"{cluster}_worker") == "ok"


def patiently(look: Callable[[], T]) -> T:
    """Calls the server again while it restarts. Raises RemoteError."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return look()
        except RemoteError as error:
            if not error.passing or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE_SECONDS)


def _path(*parts: str) -> str:
    return "/".join((ROOT, *map(_quoted, parts)))


def _quoted(name: str) -> str:
    if not name:
        raise RemoteError("A name is empty: nothing is called that.", 400)
    return quote(name, safe="")
