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
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection

from batches.cli import report
from batches.cli.remote import Batches
from batches.cli.watch import Watched, watch
from models_registry.catalog import demo
from models_registry.catalog.folders import ModelError
from vbs.cli import access
from vbs.cli.remote import Remote, RemoteError
from vbs.cli.terminal import aligned
from vbs.cli.whole_file import NotAFile, whole_file
from vbs.logs import one_line
from vbs.run import interrupts, postgres, stack

EXAMPLE = stack.BASE_DIR / "examples" / "demo_batch_10.jsonl"
MODEL = "smollm2"  # of demo_models; the example names it
OUTPUT = "demo_output.jsonl"
SHOWN = 3  # answers
WIDTH = 100
REFUSALS = (stack.StackError, postgres.PostgresError, ModelError, RemoteError, NotAFile, DatabaseError, OSError)


class Command(BaseCommand):
    help = "Run a batch of ten questions through the demo model. Sets up what is missing and leaves nothing running."

    def handle(self, **options: Any) -> None:
        interrupts.listen()
        try:
            with self.server():
                model, new = demo.add(MODEL, self.say)
                self.say(f"the model {model.name} {'is added' if new else 'is there'}")
                with access.connected(Batches, None, None, None, "manage.py demo") as remote:
                    self.show(remote, self.run(remote))
        except REFUSALS as error:
            raise CommandError("\n".join(map(one_line, str(error).splitlines()))) from error
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            interrupts.ignore()

    @contextmanager
    def server(self) -> Iterator[None]:
        """The stack of our data folder: the running one, or one of our own for the time of the block."""
        if found := stack.running(settings.VBS_DATA_DIR):
            self.say(f"using the vbs that runs at {found.url}")
            wait_until_ready(found.url)
            yield
            return
        ours = stack.Stack(settings.VBS_DATA_DIR, port=stack.free_port())
        try:
            ours.start(self.say)
            ours.wait_ready(self.say)
            wait_until_ready(ours.url)
            yield
        finally:
            interrupts.ignore()
            connection.close()
            with suppress(OSError):  # standard output may be closed
                self.say("stopping everything")
            ours.stop()

    def run(self, remote: Batches) -> Watched:
        """The batch at its end. When the wait is interrupted, the batch is cancelled."""
        self.say(f"submitting {EXAMPLE.relative_to(stack.BASE_DIR)}")
        batch = remote.submit(EXAMPLE, metadata={"made by": "manage.py demo"})
        try:
            return watch(remote, batch, sys.stdout)
        except BaseException:
            with suppress(RemoteError):
                remote.cancel(batch["id"])
            raise

    def show(self, remote: Batches, watched: Watched) -> None:
        batch = watched.batch
        if not report.went_well(batch):
            raise CommandError(reason(remote, watched))
        output = settings.VBS_DATA_DIR / OUTPUT
        with whole_file(output) as file:
            for piece in remote.results(batch["id"]):
                file.write(piece)
        for question, answer in answers(output, SHOWN):
            self.stdout.write("")
            self.stdout.write(paragraph("Q  ", question))
            self.stdout.write(paragraph("A  ", answer))
        seconds, loading = report.running_seconds(batch), watched.loading_seconds
        rows = [
            ["answers", f"{batch['request_counts']['completed']} in {report.duration(seconds or 0)}"],
            ["speed", report.speed(batch["progress"])],
            ["loading", report.duration(loading) if loading else "the model was loaded already"],
            ["output", str(output)],
        ]
        self.stdout.write(f"\n{aligned(rows)}\n")

    def say(self, text: str) -> None:
        self.stdout.write(f"vbs: {one_line(text)}")
        self.stdout.flush()


def wait_until_ready(url: str) -> None:
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
