"""How much of what can be repeated for ever is repeated: some of it by `make test`, all of it by `make test-all`."""

from collections.abc import Iterable
from typing import Any

import pytest


def few(values: Iterable[Any], first: int = 1) -> list[Any]:
    """For `parametrize`: those after the first are left to `make test-all`."""
    return [value if number < first else later(value) for number, value in enumerate(values)]


def later(value: Any) -> Any:
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.many)
