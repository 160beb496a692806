"""`manage.py model add|add-demo|edit`."""

import argparse
import getpass
import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from models_registry.api.registry_wire import RegistryModel
from models_registry.catalog import demo as demo_models
from models_registry.catalog import paste as pasting
from models_registry.catalog.rules import PRICES
from models_registry.cli import Console, size
from models_registry.cli.remote import Registry
from models_registry.models import Task
from models_registry.remote_keys import MOST_KEY
from vbs.logs import one_line

ABOUT = ("license", "notes", "trust_remote_code", "allow_pickle")  # options of every model
PLACE = ("revision", "file", "token", "base", "remote_name", "pool", "copy")  # options about the source of a new model
KEY_FILE = "a file, or with - of standard input"
MOST_FIRST_LINE = MOST_KEY + 100  # characters; a longer one is told to be no key


def add_to(actions: Any) -> None:
    add = actions.add_parser("add", help="register a model")
    add.add_argument("name", nargs="?", help="the name that requests will use")
    add.add_argument("source", nargs="?", help="a folder, a .gguf file, an http(s)://…/v1 URL, or scripted:")
    add.add_argument("--paste", metavar="TEXT", help=f"instead of these, {pasting.UNDERSTOOD}")
    add.add_argument("--name", dest="chosen", metavar="NAME", help="with --paste, the name that requests will use")
    add.add_argument(
        "--hub", metavar="ORG/NAME", help="instead of SOURCE, a model of the hub; 'model fetch' downloads its files"
    )
    add.add_argument("--revision", default="", help="of the hub's model: a branch, tag or commit")
    add.add_argument("--file", default="", help="of the hub's model: the .gguf file to use")
    add.add_argument(
        "--token", metavar="NAME", help="an access token kept by 'model token', for a gated or private model of the hub"
    )
    add.add_argument("--task", help=f"{', '.join(Task.values)}; guessed when left out")
    add.add_argument(
        "--arg",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the engine by its long name, e.g. max-model-len=2048 or enforce-eager; may be repeated",
    )
    add.add_argument("--base", help="the base, where SOURCE or the model of the hub is a LoRA adapter")
    add.add_argument("--remote-name", default="", help="what the remote server calls the model, if not NAME")
    add.add_argument(
        "--pool", action="append", metavar="URL", help="another server with the same remote model; may be repeated"
    )
    add.add_argument("--key-file", metavar="FILE", help=f"the remote server's key, as the first line of {KEY_FILE}")
    add.add_argument("--copy", action="store_true", help="copy the folder instead of using it where it is")
    _about(add)
    add.set_defaults(run=_add)

    demo = actions.add_parser("add-demo", help="fetch and register small models to try things with")
    demo.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(demo_models.DEMO_MODELS)} or all")
    demo.set_defaults(run=_add_demo)

    edit = actions.add_parser("edit", help="change a model's task, options, prices or notes")
    edit.add_argument("name")
    edit.add_argument("--task", help=", ".join(Task.values))
    edit.add_argument("--arg", action="append", metavar="KEY=VALUE", help="as with add; these replace all options")
    edit.add_argument("--pool", action="append", metavar="URL", help="as with add; these replace all other servers")
    edit.add_argument("--no-pool", action="store_true", help="remove all other servers")
    edit.add_argument("--key-file", metavar="FILE", help=f"as with add: {KEY_FILE}")
    edit.add_argument("--no-key", action="store_true", help="forget the key of the remote server")
    edit.add_argument(
        "--token", metavar="NAME", help="an access token kept by 'model token', for a gated or private model of the hub"
    )
    edit.add_argument("--no-args", action="store_true", help="remove all options of the engine")
    for name, what in (("--input-price", "input"), ("--output-price", "output")):
        edit.add_argument(name, metavar="PRICE", help=f"for a million {what} tokens; none removes it")
    _about(edit)
    edit.set_defaults(run=_edit)


def _about(parser: Any) -> None:
    """The options that every model has."""
    parser.add_argument("--license", help="default: read from the model")
    parser.add_argument("--notes", help="shown on its page")
    for name, what in (
        ("--trust-remote-code", "run the code that comes with the model: read the code first"),
        ("--allow-pickle", "load weights that are pickles; only tensors are read from them"),
    ):
        parser.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=what)


def _said(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ABOUT if given[name] is not None}


def _given(given: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: given[name] for name in names if given[name]}


def _add(
    console: Console,
    registry: Registry,
    *,
    name: str | None,
    source: str | None,
    task: str | None,
    arg: list[str],
    **given: Any,
) -> None:
    hub, paste, chosen = given["hub"], given["paste"], given["chosen"]
    if chosen and paste is None:
        raise CommandError("--name is for --paste: give the name as the first argument")
    if (source or hub) and paste is not None:
        raise CommandError(f"--paste says where the model is: leave out {'SOURCE' if source else '--hub'}")
    if source and hub:
        raise CommandError("--hub says where the model is: leave out SOURCE")
    if paste is None and not (name and (source or hub)):
        raise CommandError("a name and a source are required, or --hub ORG/NAME, or --paste TEXT")
    places = {"name": chosen or name, "source": source, "hub_id": hub, "paste": paste, "task": task}
    if arg:
        places["engine_args"] = dict(map(_option, arg))
    about = _given(given, PLACE) | _said(given) | _key(given)
    model = registry.add(**{key: value for key, value in places.items() if value is not None}, **about)
    for one in model["refused"]:
        console.progress(f"not taken: {one['reason']}")
    console.say(line(model))
    if model["state"] == "draft":
        console.progress(f"its files are not here yet: {console.command('fetch', model['id'])} downloads them")


def _add_demo(console: Console, registry: Registry, *, models: list[str], **_: Any) -> None:
    for key in list(demo_models.DEMO_MODELS) if "all" in models else models or ["smollm2"]:
        model = registry.add_demo(key)
        for step in model["steps"]:
            console.progress(step)
        console.say(line(model) if model["new"] else f"{model['id']} is already there")


def _edit(
    console: Console,
    registry: Registry,
    *,
    name: str,
    task: str | None,
    arg: list[str] | None,
    no_args: bool,
    **given: Any,
) -> None:
    changes = _said(given) | _given(given, ("token",)) | ({"task": task} if task else {})
    if arg and no_args:
        raise CommandError("--arg and --no-args contradict each other: leave one out")
    if arg or no_args:
        changes["engine_args"] = dict(map(_option, arg or []))
    if given["pool"] and given["no_pool"]:
        raise CommandError("--pool and --no-pool contradict each other: leave one out")
    if given["pool"] or given["no_pool"]:
        changes["pool"] = given["pool"] or []
    if given["key_file"] and given["no_key"]:
        raise CommandError("--key-file and --no-key contradict each other: leave one out")
    changes |= {"key": ""} if given["no_key"] else _key(given)
    for price in PRICES:
        if given[price] is not None:
            changes[price] = None if given[price] == "none" else given[price]
    if not changes:
        raise CommandError("there is nothing to change: give an option, such as --task, --arg or --license")
    console.say(line(registry.edit(name, **changes)))


def _key(given: dict[str, Any]) -> dict[str, str]:
    """The key in the file that was named. It is never an argument, which everybody on the machine could read."""
    if (name := given["key_file"]) is None:
        return {}
    if name == "-":
        text = getpass.getpass("Key: ") if sys.stdin.isatty() else sys.stdin.readline(MOST_FIRST_LINE)
    else:
        try:
            with Path(name).open(encoding="utf-8") as file:
                text = file.readline(MOST_FIRST_LINE)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise CommandError(f"{name} cannot be read: {why}") from None
    if not (key := text.strip()):
        raise CommandError(
            f"there is no key in {'what was given' if name == '-' else name}: write it in the first line"
        )
    return {"key": key}


def _option(text: str) -> tuple[str, Any]:
    """KEY=VALUE, whose value is JSON if it can be parsed, else a text. A bare KEY is a switch that is on."""
    key, given, value = text.partition("=")
    key = key.lstrip("-").replace("_", "-")
    if not given:
        return key, True
    try:
        return key, json.loads(value, parse_constant=_no_json)
    except ValueError:
        return key, value


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # Python's parser accepts NaN


def line(model: RegistryModel) -> str:
    length = f"{model['context_length']:,} tokens" if model["context_length"] else "-"
    names = ", ".join([model["id"], *model["aliases"]])
    facts = f"{names:<28} {model['state']:<11} {model['task']:<11} {model['kind']:<9}"
    place = model["source"] or model["hub_id"] or ""
    return one_line(f"{facts} {size(model['size_bytes']):>9} {length:>16}  {place}".rstrip())
