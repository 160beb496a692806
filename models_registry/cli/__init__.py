"""The actions of `manage.py model`: a module for each group, and what they share.

Each module has `add_to(actions)`, which adds parsers. Their default `run` is a function of the console, the server's
registry and the options.
"""

import json
import shlex
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import OutputWrapper

from models_registry.fit import formula
from vbs.logs import one_line
from vbs.places import PROGRAM


class Console:
    """Results go to standard output, progress to standard error. where: the options with which commands reach the
    server."""

    def __init__(self, out: OutputWrapper, err: OutputWrapper, where: list[str]) -> None:
        self.out, self.err, self.where = out, err, where

    def say(self, line: str) -> None:
        self.out.write(line)

    def progress(self, step: str) -> None:
        self.err.write(step, style_func=str)  # not in the colour of errors
        self.err.flush()

    def command(self, *words: str) -> str:
        """Another action on the same server, as a person would type it."""
        return one_line(f"'{shlex.join([PROGRAM, 'model', *words, *self.where])}'")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def as_json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


def size(number: int | None) -> str:
    return "-" if number is None else formula.size(number)


def moment(unix: int) -> str:
    return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M:%S}"


def iso(unix: int | None) -> str | None:
    return None if unix is None else datetime.fromtimestamp(unix, UTC).isoformat()
