"""How long an answer may be: the parameters that limit it, and a limit for a request that sets none."""

from collections.abc import Mapping
from typing import Any

from vbs.openai.raw_json import Members, Raw

# The parameters that limit an answer, first the one that we set; and whether an answer without a limit may run to the
# end of the context.
LENGTHS: dict[str, tuple[tuple[str, ...], bool]] = {
    "/v1/chat/completions": (("max_tokens", "max_completion_tokens"), True),
    "/v1/completions": (("max_tokens",), False),  # to 16 tokens, unless it is null
    "/v1/responses": (("max_output_tokens",), True),
}


def is_unlimited(endpoint: str, body: Mapping[str, Any]) -> bool:
    """May the answer run to the end of the context? The members of the body may be raw JSON."""
    if endpoint not in LENGTHS:
        return False
    names, without = LENGTHS[endpoint]
    given = [name for name in names if name in body]
    return without if not given else all(_is_null(body[name]) for name in given)


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, Raw) and bytes(value) == b"null")


def limit(endpoint: str, body: Members, most: Raw) -> None:
    """Set this limit in a body that has none."""
    if is_unlimited(endpoint, body):
        body[LENGTHS[endpoint][0][0]] = most
