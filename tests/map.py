"""What is written from the code: docs/map.md, each folder and module with the first sentence of its docstring,
docs/settings.md, the table of settings, and docs/commands.md, what there is to type. `python -m tests.map` writes
them."""

import argparse
import ast
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import django
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand

from vbs.configuration.declared import table
from vbs.settings import BASE_DIR

PACKAGES = ("vbs", "models_registry", "batches")
PLACE = BASE_DIR / "docs" / "map.md"
SETTINGS = BASE_DIR / "docs" / "settings.md"
COMMANDS = BASE_DIR / "docs" / "commands.md"
HEAD = """# Map
Where everything is: each folder and module with the first sentence that it says of itself. `python -m tests.map` writes
this file, and a test sees that it is true. How the parts work together is in [architecture.md](architecture.md).

## Folders
| folder | what is in it |
|---|---|
"""
# Folders that are no packages of the product.
OTHERS = {
    "templates": "The pages' templates, mostly in a folder of the page's name.",
    "static": "The pages' style, scripts and pictures.",
    "docker": "An image, and a composition with a database.",
    "examples": "A batch file and a table to try.",
    "benchmarks": "How fast it is.",
    "tests": "Mirrors the apps; `contract/` asks as clients do, `browser/` is Chromium, `e2e/` the real vLLM.",
    "docs": "The book, in the order of [its index](README.md).",
}
# In this order, then whatever else there is.
TYPED = ("up", "status", "demo", "batch", "make_batch", "queue", "model", "create_user", "create_api_key")
BELOW = ("web", "worker", "postgres", "prepare")  # what `up` starts
SHARED = {"help", "version", "verbosity", "settings", "pythonpath", "traceback", "no_color", "force_color"}
EVERYWHERE = {"url", "key", "project"}  # of `batch` and `model`


def modules() -> list[Path]:
    """By folder; without migrations, and without what only makes a folder a package."""
    found = [path for package in PACKAGES for path in (BASE_DIR / package).rglob("*.py")]
    kept = [path for path in found if path.name != "__init__.py" and not {"migrations", "shipped"} & {*path.parts}]
    return sorted(kept, key=lambda path: (PACKAGES.index(path.relative_to(BASE_DIR).parts[0]), path.parent, path))


def sentence(path: Path) -> str:
    """The first of its docstring, or nothing."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    found = re.match(r".+?[.!?](?=\s|$)", paragraph)
    return found.group() if found else paragraph


def folders() -> dict[str, str]:
    """The packages that say what they are, with what they say; then the other folders."""
    found = {}
    for package in (*PACKAGES, "curation", "finetuning"):
        for path in sorted((BASE_DIR / package).rglob("__init__.py")):
            if said := sentence(path):
                found[str(path.parent.relative_to(BASE_DIR))] = said
    return found | OTHERS


def written() -> str:
    said = folders()
    text = HEAD + "".join(row(f"`{name}/`", what) for name, what in said.items())
    folder = None
    for path in modules():
        if path.parent != folder:
            folder = path.parent
            name = str(folder.relative_to(BASE_DIR))
            text += f"\n## {name}\n" + (f"{said[name]}\n\n" if name in said else "")
            text += "| module | what it is |\n|---|---|\n"
        text += row(path.name, sentence(path))
    return text


def settings() -> str:
    """docs/settings.md with the table as the settings are declared."""
    made = table()
    before, head, rest = SETTINGS.read_text().partition(made.partition("\n")[0])
    assert head, f"{SETTINGS} has no table of settings"
    return before + made + "\n" + rest.partition("\n\n")[2]


def commands() -> str:
    """docs/commands.md with every target of make and every command."""
    before, head, _ = COMMANDS.read_text().partition("## make\n")
    assert head, f"{COMMANDS} has no place for the commands"
    text = before + head + "| target | what it does |\n|---|---|\n"
    targets = re.findall(r"^([a-z-]+):.*## (.*)$", (BASE_DIR / "Makefile").read_text(), re.MULTILINE)
    text += "".join(row(f"`make {name}`", about) for name, about in targets)
    ours = {name for name, app in get_commands().items() if isinstance(app, str) and app.startswith((*PACKAGES,))}
    for name in (*TYPED, *sorted(ours - {*TYPED, *BELOW}), *BELOW):
        command = load_command_class(get_commands()[name], name)
        text += f"\n## manage.py {name}\n{command.help}\n" + "".join(_options(command, name))
    return text


def row(name: str, what: str) -> str:
    return f"| {name} | {what.replace('|', chr(92) + '|')} |\n"


def _options(command: BaseCommand, name: str) -> Iterator[str]:
    parser = command.create_parser("manage.py", name)
    subparsers = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    if subparsers:
        about = {one.dest: one.help or "" for one in subparsers[0]._choices_actions}
        yield "\n| action | what it does | options |\n|---|---|---|\n"
        for action, below in subparsers[0].choices.items():
            typed = " ".join([action, *_positionals(below)])
            yield f"| `{typed}` | {about.get(action, '')} | {', '.join(_named(below, SHARED | EVERYWHERE))} |\n"
    elif words := [*_positionals(parser), *_named(parser, SHARED)]:
        yield f"\nIt takes {', '.join(one if one.startswith('`') else f'`{one}`' for one in words)}.\n"


def _positionals(parser: argparse.ArgumentParser) -> Iterator[str]:
    for one in parser._get_positional_actions():
        name = one.metavar if isinstance(one.metavar, str) else one.dest.upper()
        yield {"?": f"[{name}]", "*": f"[{name} …]"}.get(str(one.nargs), name)


def _named(parser: argparse.ArgumentParser, left_out: set[str]) -> Iterator[str]:
    for one in parser._get_optional_actions():
        if one.dest not in left_out | {"skip_checks"} and one.help != argparse.SUPPRESS:
            value = "" if one.nargs == 0 else f" {one.metavar or one.dest.upper()}"
            yield f"`{one.option_strings[0]}{value}`"


WRITTEN: dict[Path, Callable[[], str]] = {PLACE: written, SETTINGS: settings, COMMANDS: commands}

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vbs.settings")
    django.setup()
    for page, make in WRITTEN.items():
        page.write_text(make())
