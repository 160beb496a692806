"""`manage.py model fit`."""

from typing import Any

from django.core.management.base import CommandError

from models_registry.api.registry_wire import FitObject
from models_registry.cli import Console, as_json, positive
from models_registry.cli.remote import Registry
from models_registry.fit.formula import size
from vbs.cli.remote import RemoteError
from vbs.logs import one_line


def add_to(actions: Any) -> None:
    fits = actions.add_parser("fit", help="does a model fit into this machine's memory?")
    fits.add_argument("name", metavar="NAME_OR_FOLDER")
    fits.add_argument("--context", type=positive, metavar="N", help="tokens (default: the model's setting)")
    fits.add_argument(
        "--sequences", type=positive, metavar="N", default=1, help="how many of that length at once (default: 1)"
    )
    fits.add_argument("--json", action="store_true", dest="json", help="as JSON")
    fits.set_defaults(run=_fit)


def _fit(
    console: Console, registry: Registry, *, name: str, context: int | None, sequences: int, json: bool, **_: Any
) -> None:
    found = _judged(console, registry, name, {"sequences": sequences} | ({"context": context} if context else {}))
    if json:
        console.say(as_json(_described(name, found)))
        return
    console.say(one_line(f"{name} {found['text']}"))
    need, loads = found["need"], f"{found['loads']} load{'s' * (found['loads'] != 1)}"
    sizes = {
        "weights": need["weights"],
        "KV cache": need["cache"],
        "LoRA": need["lora"],
        "process": need["process"],
        "working memory": need["working"],
        f"correction ({loads})": need["correction"],
        "sum": need["total"],
        f"room ({found['room_kind'].upper()})": found["room_bytes"],
    }
    for title, number in sizes.items():
        console.say(f"  {title:<21}{size(number):>10}")


def _judged(console: Console, registry: Registry, name: str, load: dict[str, int]) -> FitObject:
    """Whether a registered model, or the model in a folder of the server, fits."""
    try:
        return registry.fit(registry.own_name(name), **load)
    except RemoteError as error:
        if error.code != "model_not_found":
            raise
    try:
        return registry.fit_of_folder(name, **load)
    except RemoteError as error:
        if error.code != "folder_not_found":
            raise
    known = console.command("list")
    raise CommandError(one_line(f"{name!r} is neither a model ({known} lists them) nor a folder"))


def _described(name: str, found: FitObject) -> dict[str, Any]:
    """The answer in `fit`'s own format, with the available memory as one object."""
    plain = ("verdict", "need", "asked", "context", "sequences", "change", "loads", "text", "resident")
    room = {"kind": found["room_kind"], "total": found["room_bytes"], "cache": found["room_cache"]}
    told: dict[str, Any] = {**found}
    return {"model": name, **{key: told[key] for key in plain}, "room": room | {"host": found["room_host"]}}
