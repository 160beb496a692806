"""`manage.py model fetch|token`."""

import getpass
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import CommandError
from rich.console import Console as RichConsole
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from models_registry.api.hub_wire import DownloadObject
from models_registry.api.registry_wire import RegistryModel
from models_registry.cli import Console, size
from models_registry.cli.remote import Registry, patiently
from vbs.cli.remote import RemoteError
from vbs.logs import one_line
from vbs.places import PROGRAM

POLL_SECONDS = 0.5
LINE_SECONDS = 5.0  # the least time between two lines, without a terminal
NAMED = 20  # files of a plan that are listed

ENDED = {"pause": "is paused: --resume continues it", "cancel": "is a draft again"}

Show = Callable[[DownloadObject], None]


def add_to(actions: Any) -> None:
    fetching = actions.add_parser("fetch", help="download the files of a model of the hub")
    fetching.add_argument("name")
    instead = fetching.add_mutually_exclusive_group()
    instead.add_argument("--plan", action="store_true", help="only show what the download would take")
    instead.add_argument("--pause", action="store_true", help="pause the download; what has arrived stays")
    instead.add_argument("--resume", action="store_true", help="continue after a pause")
    instead.add_argument("--cancel", action="store_true", help="stop the download and delete what has arrived")
    instead.add_argument("--retry", action="store_true", help="continue after a failure")
    fetching.add_argument("--detach", action="store_true", help="return at once")
    fetching.set_defaults(run=_fetch)

    token = actions.add_parser(
        "token", help="keep an access token of the hub, encrypted; it is typed in, or read from standard input"
    )
    token.add_argument("name", help="the name of the token in the registry")
    token.add_argument("--remove", action="store_true", help="remove the token")
    token.set_defaults(run=_token)


def _fetch(
    console: Console, registry: Registry, *, name: str, plan: bool, retry: bool, detach: bool, **given: bool
) -> None:
    for verb, words in ENDED.items():
        if given[verb]:
            registry.fetch(name, verb)
            console.say(f"{name} {words}")
            return
    model = registry.model(name)
    if plan:
        _say_plan(console.say, registry, model)
        return
    if given["resume"]:
        registry.fetch(name, "resume")
    else:
        if model["state"] in ("draft", "failed"):  # otherwise the answer says why it cannot continue
            _say_plan(console.progress, registry, model)
        registry.fetch(name, "retry" if retry else "fetch")
    if not registry.has_worker("io"):
        console.progress(f"no io worker runs, so the download waits: '{PROGRAM} up' on the server starts one")
    if detach:
        console.say(f"{name} is queued")
        return
    try:
        _follow(console, registry, name)
    except KeyboardInterrupt:
        console.progress(f"the download continues: {console.command('fetch', name, '--pause')} pauses it")


def _say_plan(say: Callable[[str], None], registry: Registry, model: RegistryModel) -> None:
    plan = registry.plan(model["id"])
    for file in plan["files"][:NAMED]:
        say(f"{size(file['size']) if file['size'] else '0 bytes':>10}  {one_line(file['path'])}")
    if (more := len(plan["files"]) - NAMED) > 0:
        say(f"{'':>10}  and {more} more")
    there = f", {size(plan['present'])} already here" if plan["present"] else ""
    if plan["files"]:
        count, license = len(plan["files"]), plan["license"] or "not named"
        say(one_line(f"{size(plan['bytes']):>10}  in {count} files{there}; licence: {license}"))
    if plan["converted"]:
        say(f"{size(plan['converted']):>10}  more, about, while it is converted into a folder")
    if model["parent"]:
        made_for = plan["made_for"] or "a base that it does not name"
        say(one_line(f"an adapter, made for {made_for}; its base here is {model['parent']}"))
    if plan["files"] and not model["parent"]:
        say(one_line(f"{model['id']} {_fit(registry, model['id'])}"))
    if plan["gated"]:
        say(f"{model['hub_id']} is gated: it needs a token with access")
    if plan["fits"]:
        say(f"{size(plan['free_after']):>10}  stay free on the disk")
    else:
        say(f"the disk cannot hold it: {size(plan['disk_free'])} are free")


def _fit(registry: Registry, name: str) -> str:
    try:
        return registry.fit(name)["text"]
    except RemoteError as error:
        return f"may or may not fit: {error}"


def _follow(console: Console, registry: Registry, name: str) -> None:
    """Shows the download until it ends. Raises CommandError when it fails."""
    with _bar() if console.err.isatty() else _lines(console) as show:
        while True:
            model = _look(registry, name)
            download = model["download"]
            if download is None:
                raise CommandError(f"the model {name} has been removed")
            show(download)
            if download["state"] not in ("queued", "running"):
                break
            time.sleep(POLL_SECONDS)
    match download["state"]:
        case "failed":
            raise CommandError(one_line(f"{name}: {download['reason']}"))
        case "paused":
            console.say(f"{name} is paused: {console.command('fetch', name, '--resume')} continues it")
        case "cancelled":
            console.say(f"{name} is a draft again: the download was cancelled")
        case _:
            console.say(one_line(f"{name} is fetched into {model['source']}"))


def _look(registry: Registry, name: str) -> RegistryModel:
    try:
        return patiently(lambda: registry.model(name))
    except RemoteError as error:
        if error.code == "model_not_found":
            raise CommandError(f"the model {name} has been removed") from error
        raise


@contextmanager
def _bar() -> Iterator[Show]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=RichConsole(stderr=True, markup=False, highlight=False)) as progress:
        task = progress.add_task("queued", total=None)

        def show(download: DownloadObject) -> None:
            words = download["doing"] or download["state"]
            progress.update(task, description=words, total=download["bytes_total"], completed=download["bytes_done"])

        yield show


@contextmanager
def _lines(console: Console) -> Iterator[Show]:
    said, due = "", 0.0

    def show(download: DownloadObject) -> None:
        nonlocal said, due
        rate = download["bytes_per_second"]
        speed = f", {size(int(rate))}/s" if rate else ""
        words = download["doing"] or download["state"]
        line = f"{words}: {size(download['bytes_done'])} of {size(download['bytes_total'])}{speed}"
        now = time.monotonic()
        if line != said and now >= due:
            console.progress(line)
            said, due = line, now + LINE_SECONDS

    yield show


def _token(console: Console, registry: Registry, *, name: str, remove: bool, **_: Any) -> None:
    if remove:
        users = registry.remove_token(name)["models"]
        without = f"; it was used by {', '.join(users)}" if users else ""
        console.say(f"the token {name} is removed{without}")
        return
    given = getpass.getpass("Token: ") if sys.stdin.isatty() else sys.stdin.readline()
    registry.keep_token(name, given.strip())
    console.say(f"the token {name} is kept")
