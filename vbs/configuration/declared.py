"""The declaration of a setting: one call reads it from the environment, checks it, and describes it.

vbs/settings.py declares each setting. The page of settings and docs/settings.md are made from the declarations.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environs import Env, validate
from marshmallow import fields
from marshmallow.exceptions import ValidationError

env = Env()
_CREDENTIALS = re.compile(r"(://)[^/@\s]*@")


@dataclass(frozen=True)
class Setting:
    """default and words: what it is when nothing is given, and what it means, as docs/settings.md says them.
    attribute: its name in vbs.settings.

    subject: what it is about: a heading of the page of settings.

    changes: when a change takes hold, for a setting that can be changed while vbs runs; empty for the others, which are
    read once at the start. parse: for one that can be changed, gives its value from text or JSON; raises ValueError
    with what is wrong. range, choices: the allowed values; empty where they are none.
    """

    name: str
    default: str
    words: str
    attribute: str
    subject: str = ""
    secret: bool = False
    changes: str = ""
    parse: Callable[[Any], Any] | None = None
    range: str = ""
    choices: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """The allowed values of one that can be changed, in a sentence; empty where there is none that says it."""
        if self.choices:
            return f"One of {', '.join(self.choices)}."
        return f"A whole number from {self.range}." if self.range else ""

    @property
    def given(self) -> bool:
        return bool(os.environ.get(self.name))

    def shown(self, value: Any) -> str:
        """The value in words, but never a secret."""
        if self.secret:
            return "set" if value else "not set"
        return _CREDENTIALS.sub(r"\1***@", _plain(value))


SETTINGS: dict[str, Setting] = {}  # by name, in the order of their declaration
_subjects = [""]  # the last one is of what is declared next


def about(subject: str) -> None:
    """What is declared from here on is about this."""
    _subjects.append(subject)


def text(
    name: str,
    default: str,
    words: str,
    check: Callable[[str], Any] | None = None,
    *,
    said: str = "",
    attribute: str = "",
    secret: bool = False,
) -> str:
    """said: the default in words, here and below, where it is not a fixed one."""
    _declare(name, default, words, said, attribute, secret=secret)
    value: str = env.str(name, default, validate=check)
    return value


def one_of(name: str, default: str, words: str, choices: Sequence[str], *, changes: str = "") -> str:
    parse = _chooser(choices) if changes else None
    _declare(name, default, words, changes=changes, parse=parse, choices=tuple(choices))
    value: str = env.str(name, default, validate=validate.OneOf(choices))
    return value


def folder(name: str, default: Path, words: str, *, said: str) -> Path:
    _declare(name, default, words, said)
    value: Path = env.path(name, default).absolute()
    return value


def switch(name: str, default: bool, words: str, *, said: str = "", attribute: str = "") -> bool:
    _declare(name, default, words, said, attribute)
    value: bool = env.bool(name, default)
    return value


def several(
    name: str,
    default: Sequence[str],
    words: str,
    *,
    said: str = "",
    attribute: str = "",
    changes: str = "",
    parse: Callable[[Any], list[str]] | None = None,
) -> list[str]:
    """Texts with commas between them."""
    _declare(name, default, words, said, attribute, changes=changes, parse=parse)
    value: list[str] = env.list(name, list(default))
    return value


def whole(name: str, default: int, words: str, least: int = 1, most: int | None = None, *, changes: str = "") -> int:
    """A number. A setting that can be changed needs an upper bound, so that sums of times stay within the calendar."""
    allowed = validate.Range(least, most)
    parse = _parser(allowed) if changes else None
    _declare(name, default, words, changes=changes, parse=parse, range=f"{least:,} to {most:,}" if most else "")
    value: int = env.int(name, default, validate=allowed)
    return value


def changeable(name: str) -> Setting:
    """Raises KeyError for a setting that cannot be changed or does not exist."""
    setting = SETTINGS[name]
    if setting.parse is None:
        raise KeyError(f"{name} is read once, at the start: settings.{setting.attribute}")
    return setting


def parsed(name: str, value: Any) -> Any:
    """A new value for a setting that can be changed. Raises KeyError and ValueError."""
    parse = changeable(name).parse
    assert parse is not None
    return parse(value)


def table() -> str:
    """The settings as the table of docs/settings.md."""
    rows = [f"| `{one.name}` | {one.default} | {one.words} |" for one in SETTINGS.values()]
    return "\n".join(["| variable | default | what it is |", "|---|---|---|", *rows]) + "\n"


def _declare(name: str, default: Any, words: str, said: str = "", attribute: str = "", **more: Any) -> None:
    plain = _plain(default)
    default = said or (f"`{plain}`" if plain else "")
    SETTINGS[name] = Setting(name, default, words, attribute or name, _subjects[-1], **more)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _chooser(choices: Sequence[str]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"It must be one of {', '.join(choices)}.")
        return str(value)

    return parse


def _parser(allowed: validate.Range) -> Callable[[Any], int]:
    field = fields.Int(validate=allowed)

    def parse(value: Any) -> int:
        try:
            if isinstance(value, bool | float) or (isinstance(value, str) and len(value) > 40):
                raise ValidationError("Not a valid integer.")
            return int(field.deserialize(value.strip() if isinstance(value, str) else value))
        except ValidationError as error:
            raise ValueError(" ".join(map(str, error.messages))) from None

    return parse
