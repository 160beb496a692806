"""The progress of what takes long: one live bar on a terminal, and lines, without control characters, elsewhere."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LINE_SECONDS = 5.0  # the least time between two lines that differ only in their figures


class Show(Protocol):
    def __call__(self, words: str, done: float | None = None, facts: str = "") -> None:
        """words: what happens now. done: how much of the whole is done, 0 to 1; None where it is not known. facts: the
        figures that change while it happens."""


def progress(out: IO[str]) -> AbstractContextManager[Show]:
    """For as long as the block lasts, what it shows. The texts must be safe for a terminal."""
    return _bar(out) if out.isatty() else _lines(out)


@contextmanager
def _bar(out: IO[str]) -> Iterator[Show]:
    console = Console(file=out, markup=False, emoji=False, highlight=False)
    words = TextColumn("{task.description}", markup=False)
    facts = TextColumn("{task.fields[facts]}", markup=False)
    with Progress(BarColumn(bar_width=24), words, facts, console=console) as bar:
        task = bar.add_task("", total=None, facts="")

        def show(words: str, done: float | None = None, facts: str = "") -> None:
            bar.update(task, description=words, total=None if done is None else 1.0, completed=done or 0.0, facts=facts)

        yield show


@contextmanager
def _lines(out: IO[str]) -> Iterator[Show]:
    said, due = ("", ""), 0.0

    def show(words: str, done: float | None = None, facts: str = "") -> None:
        nonlocal said, due
        share = "" if done is None else f"{round(100 * done):3} %  "
        line, now = share + ", ".join(filter(None, (words, facts))), time.monotonic()
        if words != said[0] or (line != said[1] and now >= due):
            out.write(f"{line}\n")
            out.flush()
            said, due = (words, line), now + LINE_SECONDS

    yield show
