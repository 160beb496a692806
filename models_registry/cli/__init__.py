"""The actions of `manage.py model`, a module for each group. What they have in common is here.

Each module has `add_to(actions)`, which adds parsers whose default `run` is a function of the console and the options.
"""

import json
from typing import Any

from django.core.management.base import OutputWrapper

from models_registry.catalog.folders import ModelError
from models_registry.fit import formula
from models_registry.models import Model


class Console:
    """Results go to standard output, progress to standard error."""

    def __init__(self, out: OutputWrapper, err: OutputWrapper) -> None:
        self.out, self.err = out, err

    def say(self, line: str) -> None:
        self.out.write(line)

    def progress(self, step: str) -> None:
        self.err.write(step, style_func=str)  # not in the colour of errors
        self.err.flush()


def find(name: str) -> Model:
    if (model := Model.objects.select_related("base").filter(name=name).first()) is None:
        raise ModelError(f"there is no model {name!r}: 'manage.py model list' names those there are")
    return model


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def as_json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


def size(number: int | None) -> str:
    return "-" if number is None else formula.size(number)
