"""`manage.py model list|show|alias|remove|cleanup`, and those of `adding`."""

from typing import Any

from django.core.management.base import CommandError

from models_registry.api.registry_wire import has_own_code
from models_registry.catalog import aliases
from models_registry.catalog import remove as removal
from models_registry.cli import Console, adding, as_json, find, size
from models_registry.cli.adding import line
from models_registry.models import Model


def add_to(actions: Any) -> None:
    adding.add_to(actions)
    listing = actions.add_parser("list", help="what is registered")
    listing.add_argument("--json", action="store_true", dest="json", help="as JSON")
    listing.set_defaults(run=_list)

    show = actions.add_parser("show", help="one model, as JSON")
    show.add_argument("name")
    show.set_defaults(run=_show)

    alias = actions.add_parser("alias", help="let a name stand for a model, wherever a model's name can be used")
    alias.add_argument("alias", metavar="ALIAS", help="e.g. @production")
    to = alias.add_mutually_exclusive_group(required=True)
    to.add_argument("name", nargs="?", help="the model that it stands for from now on")
    to.add_argument("--remove", action="store_true", help="take the alias away")
    alias.set_defaults(run=_alias)

    remove = actions.add_parser("remove", help="take a model out of the registry")
    remove.add_argument("name")
    remove.add_argument("--files", action="store_true", help="delete its folder too, if vbs has made it")
    remove.add_argument("--dry-run", action="store_true", help="only say what would go, and what needs it")
    remove.set_defaults(run=_remove)

    cleanup = actions.add_parser("cleanup", help="delete what vbs has made and no model uses")
    cleanup.add_argument("--dry-run", action="store_true", help="only say what would go")
    cleanup.add_argument("--yes", action="store_true", help="do not ask first")
    cleanup.set_defaults(run=_cleanup)


def _list(console: Console, *, json: bool, **_: Any) -> None:
    models = Model.objects.described()
    if json:
        console.say(as_json([_described(model) for model in models]))
    else:
        for model in models:
            console.say(line(model))
        if not models:
            console.progress("no models yet: try 'manage.py model add-demo'")


def _show(console: Console, *, name: str, **_: Any) -> None:
    console.say(as_json(_described(find(name))))


def _alias(console: Console, *, alias: str, name: str | None, remove: bool, **_: Any) -> None:
    if remove:
        aliases.remove(alias)
        console.say(f"{alias} is removed")
    else:
        assert name is not None
        before = aliases.point(alias, find(name))
        console.say(f"{alias} stands for {name}" + (f", no longer for {before}" if before else ""))


def _remove(console: Console, *, name: str, files: bool, dry_run: bool, **_: Any) -> None:
    model = find(name)
    if dry_run:
        reasons = removal.needed_by(model)
        console.say(f"{name} is still needed: {'; '.join(reasons)}" if reasons else f"{name} would be removed")
    if files:
        going = removal.preview(model)
        freed = f"{going.folder}: {size(going.bytes)} in {going.files} files" if going.folder else "no files of ours"
        (console.say if dry_run else console.progress)(f"frees {freed}")
    if not dry_run:
        removal.remove(model, files)
        console.say(f"{name} is removed")


def _cleanup(console: Console, *, dry_run: bool, yes: bool, **_: Any) -> None:
    found = removal.leftovers()
    for one in found:
        console.say(f"{one.folder}: {size(one.bytes)} in {one.files} files ({one.what})")
    total = size(sum(one.bytes for one in found))
    if not found:
        console.say("there is nothing to clean up")
    elif dry_run:
        console.say(f"this would free {total}")
    elif yes or _confirmed(f"Delete these, and free {total}? [y/N] "):
        for one in found:
            removal.clean(one)
        console.say(f"{total} are free again")
    else:
        console.say("nothing is deleted")


def _confirmed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        raise CommandError("nobody is here to ask: give --yes, or --dry-run to look first") from None


def _described(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "kind": model.kind,
        "task": model.task,
        "source": model.source,
        "remote_name": model.remote_name,
        "engine_args": model.engine_args,
        "size_bytes": model.size_bytes,
        "context_length": model.context_length,
        "revision": model.revision or None,
        "state": model.state,
        "reason": model.reason or None,
        "hub_id": model.hub_id or None,
        "license": model.license or None,
        "notes": model.notes or None,
        "input_price": None if model.input_price is None else float(model.input_price),
        "output_price": None if model.output_price is None else float(model.output_price),
        "trust_remote_code": model.trust_remote_code,
        "allow_pickle": model.allow_pickle,
        "own_code": has_own_code(model),
        "base": model.base.name if model.base else None,
        "aliases": [alias.name for alias in model.aliases.all()],
        "created_at": model.created_at.isoformat(),
    }
