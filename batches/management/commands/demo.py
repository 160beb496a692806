"""`manage.py demo`: runs a small batch through a real engine, from a new server to answers."""

import json
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection

from batches.cli import report
from batches.cli.remote import Batches
from batches.cli.watch import Watched, follow, share
from models_registry.catalog import demo
from models_registry.catalog.folders import ModelError
from models_registry.engine import start_progress
from models_registry.models import Model
from vbs.cli import access
from vbs.cli.progress import Show, progress
from vbs.cli.remote import Remote, RemoteError
from vbs.cli.terminal import aligned
from vbs.cli.whole_file import NotAFile, whole_file
from vbs.logs import one_line
from vbs.openai.schema import BatchObject
from vbs.places import PROGRAM
from vbs.run import interrupts, postgres, stack

EXAMPLE = stack.BASE_DIR / "examples" / "demo_batch_10.jsonl"
MODEL = "smollm2"  # of demo_models; the example names it
OUTPUT = "demo_output.jsonl"
SHOWN = 3  # answers
WIDTH = 100
REFUSALS = (stack.StackError, postgres.PostgresError, ModelError, RemoteError, NotAFile, DatabaseError, OSError)
# Where each step begins on the bar: about its part of the time on two cores, with the model on disk.
SERVER, FETCHING, LOADING, RUNNING, STOPPING = 0.0, 0.2, 0.3, 0.8, 0.97
END = {SERVER: FETCHING, FETCHING: LOADING, LOADING: RUNNING, RUNNING: STOPPING, STOPPING: 1.0}
CREEP = 0.01  # of what is left of a step, with each look at it: a bar that moves is not taken for a program that hangs


class Bar:
    """One bar for everything from the start of the server to its stop. It never goes back."""

    def __init__(self, show: Show) -> None:
        self._show, self._done = show, 0.0

    def at(self, step: float, words: str, part: float = 0.0, facts: str = "") -> None:
        """step: where it begins. part: how much of it is over, as far as that is known."""
        length = END[step] - step
        self._done = max(self._done + (END[step] - self._done) * CREEP, step + length * part, self._done)
        self._show(one_line(words), self._done, one_line(facts))

    def end(self) -> None:
        self._show("done", 1.0)


class Command(BaseCommand):
    help = "Run a batch of ten prompts through a small model: sets up what is missing, and leaves nothing running."

    def handle(self, **options: Any) -> None:
        interrupts.listen()
        try:
            with progress(sys.stdout) as show:
                bar = Bar(show)
                with self.server(bar) as url:
                    model, _ = demo.add(MODEL, lambda words: bar.at(FETCHING, words))
                    with access.connected(Batches, None, None, None, "manage.py demo") as remote:
                        watched = self.run(bar, remote)
                        output = self.results(remote, watched)
                    nobody = not get_user_model().objects.exists()
                bar.end()
            self.tell(watched, output, model, url, nobody)
        except REFUSALS as error:
            raise CommandError("\n".join(map(one_line, str(error).splitlines()))) from error
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            interrupts.ignore()

    @contextmanager
    def server(self, bar: Bar) -> Iterator[str | None]:
        """The stack of our data folder: the running one, whose address is given, or one of our own for the time of the
        block."""
        if found := stack.running(settings.VBS_DATA_DIR):
            bar.at(SERVER, f"using the vbs that runs at {found.url}")
            wait_until_ready(bar, found.url)
            yield found.url
            return
        ours = stack.Stack(settings.VBS_DATA_DIR, port=stack.free_port())
        steps = 0

        def started(words: str) -> None:
            nonlocal steps
            steps += 1
            bar.at(SERVER, words, part=min(steps / 8, 1))

        try:
            ours.start(started)
            bar.at(SERVER, "waiting for the server", part=0.5)
            ours.wait_ready()
            wait_until_ready(bar, ours.url)
            yield None
        finally:
            interrupts.ignore()
            connection.close()
            with suppress(OSError):  # standard output may be closed
                bar.at(STOPPING, "stopping the server")
            ours.stop()

    def run(self, bar: Bar, remote: Batches) -> Watched:
        """The batch at its end. When the wait is interrupted, the batch is cancelled. Raises CommandError when it has
        not gone well."""
        bar.at(LOADING, f"submitting {EXAMPLE.relative_to(stack.BASE_DIR)}")
        batch = remote.submit(EXAMPLE, metadata={"made by": "manage.py demo"})

        def tell(words: str, load: str, batch: BatchObject) -> None:
            done = share(batch)
            if done is None:
                bar.at(LOADING, words, (start_progress.percent(load) or 0) / 100, load)
            else:
                bar.at(RUNNING, words, done, report.facts(batch))

        try:
            watched = follow(remote, batch, tell)
        except BaseException:
            with suppress(RemoteError):
                remote.cancel(batch["id"])
            raise
        if not report.went_well(watched.batch):
            raise CommandError(reason(remote, watched))
        return watched

    def results(self, remote: Batches, watched: Watched) -> Path:
        output = Path(settings.VBS_DATA_DIR) / OUTPUT
        with whole_file(output) as file:
            for piece in remote.results(watched.batch["id"]):
                file.write(piece)
        return output

    def tell(self, watched: Watched, output: Path, model: Model, url: str | None, nobody: bool) -> None:
        """What was done, and where to look at it."""
        batch = watched.batch
        for question, answer in answers(output, SHOWN):
            self.stdout.write("")
            self.stdout.write(paragraph("Q  ", question))
            self.stdout.write(paragraph("A  ", answer))
        seconds, loading = report.running_seconds(batch), watched.loading_seconds
        rows = [
            ["answers", f"{batch['request_counts']['completed']} in {report.duration(seconds or 0)}"],
            ["speed", report.speed(batch["progress"])],
            ["model", f"{model.name} ({model.license})" if model.license else model.name],
            ["loading", report.duration(loading) if loading else "the model was loaded already"],
            ["output", str(output)],
        ]
        self.stdout.write(f"\n{aligned(rows)}\n")
        page = f"{url or access.local_url()}/batches/{batch['id']}/"
        if url:
            self.stdout.write(f"Look at the batch: {page}")
        else:
            self.stdout.write(
                f"Nothing runs any more. Start the server with '{PROGRAM} up', and look at the batch:\n{page}"
            )
        if nobody:
            self.stdout.write(f"To sign in there, make an account: '{PROGRAM} create_user NAME --role admin'")


def wait_until_ready(bar: Bar, url: str) -> None:
    """Waits until the server has all its parts: workers start only after the web server."""
    deadline = time.monotonic() + stack.READY_SECONDS
    with Remote(url) as remote:
        while True:
            try:
                missing = [f"{part}: {state}" for part, state in remote.ready()["parts"].items() if state != "ok"]
                if not missing:
                    return
            except RemoteError as error:
                missing = [str(error)]
            if time.monotonic() > deadline:
                raise stack.StackError(f"The vbs at {url} does not get ready ({', '.join(missing)}).")
            bar.at(SERVER, "waiting for the server")
            time.sleep(0.5)


def reason(remote: Batches, watched: Watched) -> str:
    """Why the batch failed."""
    batch = watched.batch
    if batch["errors"]:
        return f"The batch is {batch['status']}:\n{report.error_table(batch['errors']['data'])}"
    failed = b"".join(remote.errors(batch["id"])).splitlines()
    said = f": {one_line(json.loads(failed[0])['error']['message'])}" if failed else ""
    return f"The batch is {one_line(batch['status'])}; {len(failed)} requests failed{said}"


def answers(output: Path, count: int) -> list[tuple[str, str]]:
    """The first prompts of the example, with their answers."""
    found = {}
    for line in output.read_bytes().splitlines():
        answer = json.loads(line)
        found[answer["custom_id"]] = answer["response"]["body"]["choices"][0]["message"]["content"]
    asked = [json.loads(line) for line in EXAMPLE.read_bytes().splitlines()[:count]]
    return [(request["body"]["messages"][-1]["content"], found[request["custom_id"]]) for request in asked]


def paragraph(label: str, text: str) -> str:
    words = one_line(" ".join(text.split()))
    return textwrap.fill(words, WIDTH, initial_indent=label, subsequent_indent=" " * len(label))
