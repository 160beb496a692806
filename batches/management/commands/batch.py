"""`manage.py batch`: submits and manages batches, on this server or a remote one."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from django.core.management.base import BaseCommand, CommandError, CommandParser

from batches.cli import report
from batches.cli.remote import Batches
from batches.cli.watch import watch
from batches.counts import Counts
from batches.export.download import BINARY, FORMATS, JOINS
from vbs.accounts.models import DEFAULT_PROJECT
from vbs.cli import access
from vbs.cli.remote import RemoteError
from vbs.cli.terminal import JsonLines, reader_may_leave
from vbs.cli.whole_file import NotAFile, whole_file
from vbs.logs import one_line
from vbs.openai.schema import BatchObject
from vbs.places import PROGRAM

FIRST_LINE_BYTES = 16 * 2**20


class Command(BaseCommand):
    help = "Submit batches, watch them and get their results: on this server, or with --url and --key on a distant one."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

        def action(name: str, about: str, batch: bool = True) -> CommandParser:
            made: CommandParser = actions.add_parser(name, help=about, description=about)
            if batch:
                made.add_argument("batch_id", metavar="ID")
            access.add_arguments(made)
            made.add_argument("--project", help=f"the project, on this server (default: {DEFAULT_PROJECT})")
            return made

        submit = action("submit", "upload a batch file or a table, and run it", batch=False)
        submit.add_argument(
            "file", type=Path, metavar="FILE", help="a batch file (JSONL), or a table (CSV, TSV, XLSX, JSONL of rows)"
        )
        submit.add_argument("--name", default="", help="the name of the batch (default: that of the file)")
        submit.add_argument("--model", default="", help="the model for requests that name none")
        submit.add_argument(
            "--prompt", default="", help="for a table: the prompt template, in which {text} stands for the column text"
        )
        submit.add_argument("--system", default="", help="for a table: the system prompt, which may name columns too")
        submit.add_argument("--id-column", default="", metavar="COL", help="for a table: the column with the ids")
        submit.add_argument("--max-tokens", type=int, metavar="N", help="for a table: the longest answer, in tokens")
        submit.add_argument("--temperature", type=float, metavar="N", help="for a table: from 0 to 2")
        submit.add_argument("--endpoint", default="", help="default: that of the first request in the file")
        submit.add_argument("--priority", type=int, help="-100 to 100; a higher one runs first (default: 0)")
        submit.add_argument(
            "--metadata", nargs="+", action="extend", default=[], metavar="K=V", help="pairs to find the batch by"
        )
        submit.add_argument("--wait", action="store_true", help="show the progress until the batch ends")

        listing = action("list", "list the newest batches", batch=False)
        listing.add_argument(
            "--limit", type=int, default=20, metavar="N", help="how many batches to list (default: 20)"
        )
        listing.add_argument("--json", action="store_true", dest="as_json", help="as JSON")

        show = action("show", "show one batch")
        show.add_argument("--json", action="store_true", dest="as_json", help="as JSON")
        show.add_argument("--wait", action="store_true", help="show the progress until the batch ends")

        action("cancel", "cancel a batch; its answers so far are kept")

        results = action("results", "get the answers, also while the batch runs")
        results.add_argument("--errors", action="store_true", help="get the lines of the error file instead")
        results.add_argument(
            "--format",
            choices=FORMATS,
            dest="kind",
            help="default: by the ending of FILE, else the lines of the output file",
        )
        results.add_argument("--join", choices=JOINS, help="put the columns of the table beside the answers")
        results.add_argument(
            "--out", type=Path, metavar="FILE", help="write to this file, which appears when it is complete"
        )

        retry = action("retry", "run again what failed or was not run, as a new batch")
        retry.add_argument("--wait", action="store_true", help="show the progress until the batch ends")

        action("logs", "show what happened to a batch")

    def handle(self, *, action: str, url: str | None, key: str | None, project: str | None, **options: Any) -> None:
        self.where = [
            word for name, value in (("--url", url), ("--project", project)) if value for word in (name, value)
        ]
        try:
            with access.connected(Batches, url, key, project, "manage.py batch") as remote, reader_may_leave():
                getattr(self, f"_{action}")(remote, **options)
        except RemoteError as error:
            raise CommandError(one_line(access.explained(error))) from error
        except (NotAFile, OSError) as error:
            raise CommandError(one_line(str(error))) from error
        except KeyboardInterrupt:
            sys.exit(130)

    # Actions

    def _submit(
        self,
        remote: Batches,
        file: Path,
        name: str,
        model: str,
        endpoint: str,
        priority: int | None,
        metadata: list[str],
        wait: bool,
        max_tokens: int | None,
        temperature: float | None,
        **options: Any,
    ) -> None:
        if not file.is_file():
            raise CommandError(f"There is no file {str(file)!r}.")
        pairs = dict(map(pair, metadata))
        parameters = {"max_tokens": max_tokens, "temperature": temperature}
        of_table = {name: options[name] for name in ("prompt", "system", "id_column")} | {
            "parameters": {name: value for name, value in parameters.items() if value is not None}
        }
        try:
            batch = remote.submit(
                file,
                name=name,
                model=model,
                endpoint=endpoint or ("" if options["prompt"] else first_url(file)),
                priority=priority,
                metadata=pairs,
                **of_table,
            )
        except KeyboardInterrupt:
            self._tell(f"Interrupted. {self._command('list')} shows whether the batch was created.")
            raise
        self._accepted(remote, batch, wait)

    def _list(self, remote: Batches, limit: int, as_json: bool, **_: Any) -> None:
        if limit < 1:
            raise CommandError(f"--limit is {limit}; it must be at least 1.")
        batches = list(remote.batches(limit))
        if as_json:
            self.stdout.write(json.dumps(batches, indent=2))
        elif batches:
            self.stdout.write(report.listing(batches))
        else:
            self._tell(f"There are no batches yet. '{PROGRAM} batch submit FILE' creates one.")

    def _show(self, remote: Batches, batch_id: str, as_json: bool, wait: bool, **_: Any) -> None:
        batch = remote.retrieve(batch_id)
        if wait and not report.ended(batch):
            with self._goes_on(batch):
                batch = watch(remote, batch, sys.stderr).batch
        if as_json:
            self.stdout.write(json.dumps(batch, indent=2))
            return
        self.stdout.write(report.details(batch))
        if batch["errors"]:
            self.stdout.write("\n" + report.error_table(batch["errors"]["data"]))

    def _cancel(self, remote: Batches, batch_id: str, **_: Any) -> None:
        self.stdout.write(one_line(remote.cancel(batch_id)["status"]))

    def _results(
        self,
        remote: Batches,
        batch_id: str,
        errors: bool,
        kind: str | None,
        join: str | None,
        out: Path | None,
        **_: Any,
    ) -> None:
        if kind is None and out and not errors:
            kind = next((name for name in FORMATS if out.suffix.lower() == f".{name}"), None)
        if errors and (kind or join):
            raise CommandError(
                "--errors gives the lines of the error file: leave out --format and --join. Or leave out --errors: "
                "tables have the failed requests too."
            )
        if out is None and kind in BINARY and self.stdout.isatty():
            raise CommandError(f"A terminal cannot show {kind}: name a file with --out.")
        query = {name: value for name, value in (("format", kind), ("join", join)) if value}
        batch = remote.retrieve(batch_id)
        if not report.ended(batch):
            self._tell(f"The batch is {report.state(batch)}. These are its answers so far.")
        expected = FORMATS[kind].content_type if kind and kind != "jsonl" else ""
        pieces = remote.errors(batch_id) if errors else remote.results(batch_id, expected, **query)
        if out is None:
            sink = JsonLines(self.stdout)
            for piece in pieces:
                sink.write(piece)
            return
        with whole_file(out) as file:
            for piece in pieces:
                file.write(piece)
            size = file.tell()
        self._tell(f"{size:,} bytes in {out}")

    def _retry(self, remote: Batches, batch_id: str, wait: bool, **_: Any) -> None:
        self._accepted(remote, remote.retry(batch_id), wait)

    def _logs(self, remote: Batches, batch_id: str, **_: Any) -> None:
        for line in b"".join(remote.logs(batch_id)).decode(errors="replace").splitlines():
            self.stdout.write(one_line(line))

    # Shared

    def _accepted(self, remote: Batches, batch: BatchObject, wait: bool) -> None:
        """Prints only the id on standard output, for scripts; with --wait the summary follows."""
        with self._goes_on(batch):
            self.stdout.write(one_line(batch["id"]))
            self.stdout.flush()
            if said := expected(batch):
                self._tell(said)
            if not wait:
                self._tell(f"{self._command('show', batch['id'], '--wait')} shows its progress")
                return
            watched = watch(remote, batch, sys.stderr)
        batch = watched.batch
        self.stdout.write(report.summary(batch, watched.loading_seconds))
        if batch["errors"]:
            self.stdout.write("\n" + report.error_table(batch["errors"]["data"]))
        if batch["output_file_id"]:
            self._tell(f"{self._command('results', batch['id'], '--out', 'FILE')} writes the answers to FILE")
        if not report.went_well(batch):
            self.stdout.flush()
            raise CommandError(self._shortfall(batch))

    @contextmanager
    def _goes_on(self, batch: BatchObject) -> Iterator[None]:
        """Tells a person who stops waiting that the batch continues."""
        try:
            yield
        except (KeyboardInterrupt, RemoteError):
            self._tell(f"The batch continues; {self._command('show', batch['id'], '--wait')} shows its progress again.")
            raise

    def _shortfall(self, batch: BatchObject) -> str:
        counts, said = Counts.read(batch), f"{batch['id']} is {batch['status']}"
        short = ((counts.failures, "failed"), (counts.not_run, "were not run"))
        if counts.failed:
            words = " and ".join(f"{count:,} of {counts.total:,} requests {what}" for count, what in short if count)
            said += f"; {words}: "
            said += self._command("results", batch["id"], "--errors")
        elif not batch["errors"]:  # these have been shown
            said += f": {self._command('logs', batch['id'])}"
        return one_line(said)

    def _command(self, action: str, *words: str) -> str:
        return one_line(f"'{shlex.join([PROGRAM, 'batch', action, *words, *self.where])}'")

    def _tell(self, text: str) -> None:
        """Writes to standard error, but not in the colour of errors."""
        self.stderr.write(one_line(text), style_func=str)
        self.stderr.flush()


def expected(batch: BatchObject) -> str:
    """`about 500 requests, expected to take 45 s and to start in 10 s (7 measurements)`, or why there is no
    forecast."""
    estimate = batch.get("estimate")  # an older server sends none
    if not estimate:
        return ""
    said = []
    if estimate["requests"] is not None:
        said.append(f"about {estimate['requests']:,} requests")
    if estimate["seconds"] is not None:
        begins, count = estimate["starts_in_seconds"], estimate["measurements"]
        start = "" if begins is None else f" and to start in {report.duration(begins)}"
        measured = f"{count:,} measurement{'' if count == 1 else 's'}"
        said.append(f"expected to take {report.duration(estimate['seconds'])}{start} ({measured})")
    return "; ".join(filter(None, [", ".join(said), estimate["reason"]]))


def pair(text: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    if not given or not name:
        raise CommandError(f"--metadata has {text!r}; it must look like name=value (and FILE comes before it).")
    return name, value


def first_url(path: Path) -> str:
    """The URL of the first request; empty when it cannot be read, and then the server reports what is wrong."""
    with path.open("rb") as file:
        for line in iter(lambda: file.readline(FIRST_LINE_BYTES), b""):
            if line.strip():
                try:
                    url = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))["url"]
                except (orjson.JSONDecodeError, KeyError, TypeError):
                    return ""
                return url if isinstance(url, str) else ""
    return ""
