"""`manage.py model fetch|token`."""

import getpass
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from models_registry.catalog.folders import ModelError
from models_registry.cli import Console, find, size
from models_registry.fit import judge
from models_registry.hub import downloads, tokens
from models_registry.models import OPEN_DOWNLOADS, Download, DownloadState, HubToken, Model, ModelState, Worker
from vbs.database.outages import insist
from vbs.logs import one_line

POLL_SECONDS = 0.5
LINE_SECONDS = 5.0  # at least between plain lines
NAMED = 20  # files in a plan

Show = Callable[[Download], None]


def add_to(actions: Any) -> None:
    fetching = actions.add_parser("fetch", help="fetch the files of a model that is on a hub")
    fetching.add_argument("name")
    instead = fetching.add_mutually_exclusive_group()
    instead.add_argument("--plan", action="store_true", help="only say what it would take")
    instead.add_argument("--pause", action="store_true", help="stop for now; what has come stays")
    instead.add_argument("--resume", action="store_true", help="go on after a pause")
    instead.add_argument("--cancel", action="store_true", help="stop, and remove what has come")
    instead.add_argument("--retry", action="store_true", help="go on after a failure")
    fetching.add_argument("--detach", action="store_true", help="do not follow it")
    fetching.set_defaults(run=_fetch)

    token = actions.add_parser("token", help="keep an access token of the hub, encrypted; it is read, not given here")
    token.add_argument("name", help="what it is called here")
    token.add_argument("--remove", action="store_true", help="forget it")
    token.set_defaults(run=_token)


def _fetch(
    console: Console,
    *,
    name: str,
    plan: bool,
    pause: bool,
    resume: bool,
    cancel: bool,
    retry: bool,
    detach: bool,
    **_: Any,
) -> None:
    model = find(name)
    if pause:
        downloads.pause(model)
        console.say(f"{name} is paused: --resume goes on")
        return
    if cancel:
        downloads.cancel(model)
        console.say(f"{name} is a draft again")
        return
    if plan:
        _say_plan(console.say, model)
        return
    if resume:
        downloads.resume(model)
    elif model.state in (ModelState.DOWNLOADING, ModelState.READY):
        downloads.start(model)  # says why not, if it cannot go on
    else:
        _say_plan(console.progress, model)
        (downloads.retry if retry else downloads.start)(model)
    _say_if_nobody_works(console)
    if detach:
        console.say(f"{name} is queued")
        return
    try:
        _follow(console, model)
    except KeyboardInterrupt:
        console.progress(f"the download goes on: 'manage.py model fetch {name} --pause' pauses it")


def _say_plan(say: Callable[[str], None], model: Model) -> None:
    plan = downloads.plan(model)
    for file in plan.files[:NAMED]:
        say(f"{size(file.size) if file.size else '0 bytes':>10}  {one_line(file.path)}")
    if (more := len(plan.files) - NAMED) > 0:
        say(f"{'':>10}  and {more} more")
    there = f", {size(plan.present)} of it here already" if plan.present else ""
    if plan.files:
        say(f"{size(plan.bytes):>10}  in {len(plan.files)} files{there}; licence: {plan.license or 'not named'}")
    if plan.converted:
        say(f"{size(plan.converted):>10}  more, about, as it is turned into a folder")
    if model.base:
        say(f"an adapter of {plan.made_for or 'a model that it does not name'}; here of {model.base.name}")
    if plan.files and not model.base:
        say(f"{model.name} {_fit(model, plan)}")
    if plan.gated:
        say(f"{model.hub_id} is gated: it needs a token with access")
    if plan.fits:
        say(f"{size(plan.free_after):>10}  of the disk stay free")
    else:
        say(f"the disk cannot hold it: {size(plan.disk_free)} are free")


def _fit(model: Model, plan: downloads.Plan) -> str:
    try:
        return judge.judge_hub(model, plan).text
    except ModelError as error:
        return f"may fit or not: {error}"


def _say_if_nobody_works(console: Console) -> None:
    alive = Worker.objects.alive().filter(cluster="io")
    if not alive.exists():
        console.progress("no io worker runs here, and it waits for one: 'manage.py up' starts everything")


def _follow(console: Console, model: Model) -> None:
    """Until it has ended. Raises ModelError when it has failed."""
    with _bar(model) if console.err.isatty() else _lines(console, model) as show:
        while True:
            download = insist(lambda: Download.objects.filter(model_id=model.pk).first())
            if download is None:
                raise ModelError(f"the model {model.name} has been removed")
            show(download)
            if download.state not in (DownloadState.QUEUED, DownloadState.RUNNING):
                break
            time.sleep(POLL_SECONDS)
    if download.state == DownloadState.FAILED:
        raise ModelError(f"{model.name}: {one_line(download.reason)}")
    if download.state in OPEN_DOWNLOADS:
        console.say(f"{model.name} is paused: 'manage.py model fetch {model.name} --resume' goes on")
    elif download.state == DownloadState.CANCELLED:
        console.say(f"{model.name} is a draft again: the download was cancelled")
    else:
        model.refresh_from_db()
        console.say(f"{model.name} is ready in {model.source}")


@contextmanager
def _bar(model: Model) -> Iterator[Show]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=RichConsole(stderr=True, markup=False, highlight=False)) as progress:
        task = progress.add_task("queued", total=None)

        def show(download: Download) -> None:
            words = downloads.doing(model, download) or download.state
            progress.update(task, description=words, total=download.bytes_total, completed=download.bytes_done)

        yield show


@contextmanager
def _lines(console: Console, model: Model) -> Iterator[Show]:
    said, due = "", 0.0

    def show(download: Download) -> None:
        nonlocal said, due
        speed = f", {size(int(download.bytes_per_second))}/s" if download.bytes_per_second else ""
        words = downloads.doing(model, download) or download.state
        line = f"{words}: {size(download.bytes_done)} of {size(download.bytes_total)}{speed}"
        now = time.monotonic()
        if line != said and now >= due:
            console.progress(line)
            said, due = line, now + LINE_SECONDS

    yield show


def _token(console: Console, *, name: str, remove: bool, **_: Any) -> None:
    if remove:
        users = list(Model.objects.filter(hub_token__name=name).values_list("name", flat=True))
        if not HubToken.objects.filter(name=name).delete()[0]:
            raise ModelError(f"there is no token {name!r}")
        without = f"; without it now: {', '.join(users)}" if users else ""
        console.say(f"the token {name} is forgotten{without}")
        return
    given = getpass.getpass("Token: ") if sys.stdin.isatty() else sys.stdin.readline()
    tokens.keep(name, given)
    console.say(f"the token {name} is kept")
