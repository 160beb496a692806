"""`manage.py model list|show|alias|remove|cleanup`, and the actions of `adding`."""

from typing import Any

from django.core.management.base import CommandError

from models_registry.api.registry_wire import RegistryModel
from models_registry.cli import Console, adding, as_json, iso, size
from models_registry.cli.adding import line
from models_registry.cli.remote import Registry


def add_to(actions: Any) -> None:
    adding.add_to(actions)
    listing = actions.add_parser("list", help="list the models")
    listing.add_argument("--json", action="store_true", dest="json", help="as JSON")
    listing.set_defaults(run=_list)

    show = actions.add_parser("show", help="show one model, as JSON")
    show.add_argument("name")
    show.set_defaults(run=_show)

    alias = actions.add_parser("alias", help="point an alias at a model; it can be used like the name of a model")
    alias.add_argument("alias", metavar="ALIAS", help="e.g. @production")
    to = alias.add_mutually_exclusive_group(required=True)
    to.add_argument("name", nargs="?", help="the model that the alias points at from now on")
    to.add_argument("--remove", action="store_true", help="remove the alias")
    alias.set_defaults(run=_alias)

    remove = actions.add_parser("remove", help="remove a model from the registry")
    remove.add_argument("name")
    remove.add_argument("--files", action="store_true", help="also delete its folder, if vbs made it")
    remove.add_argument(
        "--dry-run", action="store_true", help="only show what would be deleted, and what needs the model"
    )
    remove.set_defaults(run=_remove)

    cleanup = actions.add_parser("cleanup", help="delete the folders that vbs made and no model uses")
    cleanup.add_argument("--dry-run", action="store_true", help="only show what would be deleted")
    cleanup.add_argument("--yes", action="store_true", help="delete without asking")
    cleanup.set_defaults(run=_cleanup)


def _list(console: Console, registry: Registry, *, json: bool, **_: Any) -> None:
    models = registry.models()
    if json:
        console.say(as_json([_described(model) for model in models]))
        return
    for model in models:
        console.say(line(model))
    if not models:
        console.progress(f"no models yet: try {console.command('add-demo')}")


def _show(console: Console, registry: Registry, *, name: str, **_: Any) -> None:
    console.say(as_json(_described(registry.model(name))))


def _alias(console: Console, registry: Registry, *, alias: str, name: str | None, remove: bool, **_: Any) -> None:
    if remove:
        registry.remove_alias(alias)
        console.say(f"{alias} is removed")
        return
    assert name is not None
    before = registry.alias(alias)
    registry.point(alias, name)
    console.say(f"{alias} stands for {name}" + (f", no longer for {before['model']}" if before else ""))


def _remove(console: Console, registry: Registry, *, name: str, files: bool, dry_run: bool, **_: Any) -> None:
    found = registry.remove(name, files, dry_run)
    if dry_run:
        reasons = found["needed_by"]
        console.say(f"{name} is still needed: {'; '.join(reasons)}" if reasons else f"{name} would be removed")
    if files:
        freed = f"{found['folder']}: {size(found['bytes'])} in {found['files']} files"
        (console.say if dry_run else console.progress)(
            f"frees {freed if found['folder'] else 'nothing: vbs did not make its files'}"
        )
    if not dry_run:
        console.say(f"{name} is removed")


def _cleanup(console: Console, registry: Registry, *, dry_run: bool, yes: bool, **_: Any) -> None:
    found = registry.leftovers()
    for one in found:
        console.say(f"{one['folder']}: {size(one['bytes'])} in {one['files']} files ({one['what']})")
    total = size(sum(one["bytes"] for one in found))
    if not found:
        console.say("there is nothing to clean up")
    elif dry_run:
        console.say(f"this would free {total}")
    elif yes or _confirmed(f"Delete these, and free {total}? [y/N] "):
        for one in found:
            registry.clean(one["id"])
        console.say(f"{total} are free again")
    else:
        console.say("nothing is deleted")


def _confirmed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        raise CommandError("nobody can be asked here: give --yes, or --dry-run to look first") from None


def _described(model: RegistryModel) -> dict[str, Any]:
    return {
        "name": model["id"],
        "kind": model["kind"],
        "task": model["task"],
        "source": model["source"] or "",
        "remote_name": model["remote_name"] or "",
        "pool": model["pool"],
        "has_key": model["has_key"],
        "engine_args": model["engine_args"],
        "size_bytes": model["size_bytes"],
        "context_length": model["context_length"],
        "revision": model["revision"],
        "state": model["state"],
        "checked_at": iso(model["checked_at"]),
        "reason": model["reason"],
        "hub_id": model["hub_id"],
        "license": model["license"],
        "notes": model["notes"],
        "input_price": model["input_price"],
        "output_price": model["output_price"],
        "trust_remote_code": model["trust_remote_code"],
        "allow_pickle": model["allow_pickle"],
        "own_code": model["own_code"],
        "base": model["parent"],
        "aliases": model["aliases"],
        "created_at": iso(model["created"]),
    }
