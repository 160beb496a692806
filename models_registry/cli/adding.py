"""`manage.py model add|add-demo|edit`."""

import argparse
import json
from typing import Any

from django.core.management.base import CommandError

from models_registry.catalog import add as importer
from models_registry.catalog import allowed, rules
from models_registry.catalog import demo as demo_models
from models_registry.catalog import paste as pasting
from models_registry.cli import Console, find, size
from models_registry.hub import downloads
from models_registry.models import HubToken, Model, Task
from vbs.configuration import audit

ABOUT = ("license", "notes", "trust_remote_code", "allow_pickle")


def add_to(actions: Any) -> None:
    add = actions.add_parser("add", help="register a model")
    add.add_argument("name", nargs="?", help="the name that requests will use")
    add.add_argument("source", nargs="?", help="a folder, a .gguf file, an http(s)://…/v1 URL, or scripted:")
    add.add_argument("--paste", metavar="TEXT", help=f"instead of these, {pasting.UNDERSTOOD}")
    add.add_argument("--name", dest="chosen", metavar="NAME", help="with --paste, the name that requests will use")
    add.add_argument("--hub", metavar="ORG/NAME", help="instead of SOURCE, a model of the hub: a draft, to be fetched")
    add.add_argument("--revision", default="", help="of the hub's model: a branch, tag or commit")
    add.add_argument("--file", default="", help="of the hub's model: the one .gguf file that is meant")
    add.add_argument("--token", metavar="NAME", help="of the registry, for a gated or private model of the hub")
    add.add_argument("--task", help=f"{', '.join(Task.values)}; guessed when left out")
    add.add_argument(
        "--arg",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the engine by its long name, e.g. max-model-len=2048 or enforce-eager; may be repeated",
    )
    add.add_argument("--base", help="the model that SOURCE or the hub's model is a LoRA adapter of")
    add.add_argument("--remote-name", default="", help="what the remote server calls the model, if not NAME")
    add.add_argument("--copy", action="store_true", help="copy the folder instead of using it where it is")
    _about(add)
    add.set_defaults(run=_add)

    demo = actions.add_parser("add-demo", help="fetch and register small models to try things with")
    demo.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(demo_models.DEMO_MODELS)} or all")
    demo.set_defaults(run=_add_demo)

    edit = actions.add_parser("edit", help="change what is said of a model")
    edit.add_argument("name")
    edit.add_argument("--task", help=", ".join(Task.values))
    edit.add_argument("--arg", action="append", metavar="KEY=VALUE", help="as of add; these take the place of all")
    edit.add_argument("--token", metavar="NAME", help="of the registry, for a gated or private model of the hub")
    edit.add_argument("--no-args", action="store_true", help="no options of the engine any more")
    for name, what in (("--input-price", "reads"), ("--output-price", "writes")):
        edit.add_argument(name, metavar="PRICE", help=f"of a million tokens that it {what}; none: it has no price")
    _about(edit)
    edit.set_defaults(run=_edit)


def _about(parser: Any) -> None:
    """What can be said of any model."""
    parser.add_argument("--license", help="read from the model where it is not given")
    parser.add_argument("--notes")
    for name, what in (
        ("--trust-remote-code", "run the code that comes with the model: read it first"),
        ("--allow-pickle", "load weights that are pickles, of which only tensors are read"),
    ):
        parser.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=what)


def _said(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ABOUT if given[name] is not None}


def _add(
    console: Console, *, name: str | None, source: str | None, task: str | None, arg: list[str], **given: Any
) -> None:
    options, hub, places = dict(map(_option, arg)), given["hub"], {key: given[key] for key in ("revision", "file")}
    if given["paste"] is not None:
        if source or hub:
            raise CommandError(f"--paste says where the model is: leave out {'SOURCE' if source else '--hub'}")
        found = _pasted(console, given["paste"])
        name, task, options = given["chosen"] or name or found.name, task or found.task, found.engine_args | options
        source, hub = (None, found.source) if found.on_hub else (found.source, None)
        places = {"revision": places["revision"] or found.revision, "file": places["file"] or found.file}
    elif given["chosen"]:
        raise CommandError("--name is for --paste: give the name as the first argument")
    if source and hub:
        raise CommandError("--hub says where the model is: leave out SOURCE")
    if not name or not (source or hub):
        raise CommandError("a name and a source are required, or --hub ORG/NAME, or --paste TEXT")
    base = find(given["base"]) if given["base"] else None
    if hub:
        _check(given, ("copy", "remote_name"), "is not for a model of the hub")
        token = _token(given["token"]) if given["token"] else None
        places |= _said(given)
        model = downloads.add(name, hub, task=task, engine_args=options, base=base, token=token, **places)
        _keep(model, given)
        console.say(line(model))
        console.progress(f"its files are not here yet: fetch them with 'manage.py model fetch {model.name}'")
        return
    assert source is not None
    _check(given, ("revision", "file", "token"), "is only for a model of the hub")
    model = importer.add(
        name,
        source,
        task,
        options,
        remote_name=given["remote_name"],
        base=base,
        copy=given["copy"],
        on_progress=console.progress,
        **_said(given),
    )
    _keep(model, given)
    console.say(line(model))


def _keep(model: Model, given: dict[str, Any]) -> None:
    """Who says that code of a model may run stands in the audit log, also when it is said here."""
    if given["trust_remote_code"] is not None:
        audit.record_command("model.trust", model.name, allowed.told(model.trust_remote_code))


def _check(given: dict[str, Any], names: tuple[str, ...], why: str) -> None:
    if odd := [name for name in names if given[name]]:
        raise CommandError(f"--{odd[0].replace('_', '-')} {why}: leave it out")


def _token(name: str) -> HubToken:
    if (token := HubToken.objects.filter(name=name).first()) is None:
        raise CommandError(f"there is no token {name!r}: 'manage.py model token {name}' keeps one")
    return token


def _pasted(console: Console, text: str) -> pasting.Proposal:
    try:
        found = pasting.read(text)
    except pasting.PasteError as error:
        raise CommandError(str(error)) from error
    for _option_name, reason in found.refused:
        console.progress(f"not taken: {reason}")
    return found


def _add_demo(console: Console, *, models: list[str], **_: Any) -> None:
    keys = list(demo_models.DEMO_MODELS) if "all" in models else models or ["smollm2"]
    if unknown := [key for key in keys if key not in demo_models.DEMO_MODELS]:
        choices = ", ".join(demo_models.DEMO_MODELS)
        raise CommandError(f"there is no demo model {unknown[0]!r}: choose from {choices}, all")
    for key in keys:
        model, new = demo_models.add(key, console.progress)
        console.say(line(model) if new else f"{model.name} is already there")


def _edit(console: Console, *, name: str, task: str | None, arg: list[str] | None, no_args: bool, **given: Any) -> None:
    changes = _said(given) | ({"task": task} if task else {})
    if arg and no_args:
        raise CommandError("--arg and --no-args cannot both be meant: leave one out")
    if arg or no_args:
        changes["engine_args"] = dict(map(_option, arg or []))
    if given["token"]:
        changes["hub_token"] = _token(given["token"])
    for price in rules.PRICES:
        if given[price] is not None:
            changes[price] = None if given[price] == "none" else given[price]
    if not changes:
        raise CommandError("there is nothing to change: give --task, --arg, --license …")
    model = importer.edit(find(name), on_server=False, **changes)
    _keep(model, given)
    console.say(line(model))


def _option(text: str) -> tuple[str, Any]:
    """KEY=VALUE with a JSON value where it is one, else a text; a bare KEY is a switch that is on."""
    key, given, value = text.partition("=")
    key = key.lstrip("-").replace("_", "-")
    if not given:
        return key, True
    try:
        return key, json.loads(value, parse_constant=_no_json)
    except ValueError:
        return key, value


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # whatever Python's parser thinks of NaN


def line(model: Model) -> str:
    length = f"{model.context_length:,} tokens" if model.context_length else "-"
    names = ", ".join([model.name, *(alias.name for alias in model.aliases.all())])
    facts = f"{names:<28} {model.state:<11} {model.task:<11} {model.kind:<9} {size(model.size_bytes):>9} {length:>16}"
    return f"{facts}  {model.source or model.hub_id}".rstrip()
