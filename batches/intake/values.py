"""Have the parameters that everybody sets values that vLLM takes? Pure, and quick: it is asked of every line.

Only values that vLLM certainly refuses are wrong here: it takes "5" and 5.0 for 5, and a request that searches with
beams is not held to the ranges. They are those of vLLM 0.32 (`SamplingParams._verify_args`); a test asks vLLM itself.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vbs.openai.raw_json import kind_of

Check = Callable[[Any], str]  # says what is wrong with a value that is not null; empty when nothing is


def _type(value: Any, wanted: str) -> str:
    return f"expected {wanted}, but got {kind_of(value)}"


def _written(value: float) -> str:
    """A number in a message. JSON's parser rounds what 64 bits do not hold, so its digits are not those that came."""
    if isinstance(value, float) and abs(value) >= 2**53:
        return f"about {value:.3g}"
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _number(least: float, most: float, whole: bool = False, above: bool = False) -> Check:
    """A check of a number. above: `least` itself is not allowed."""
    kind = "a whole number" if whole else "a number"
    bounds = f"above {_written(least)}" if above else f"from {_written(least)}"
    wanted = f"{kind} {bounds}" + (f" to {_written(most)}" if most < INFINITE else " on" if not above else "")

    def check(value: Any) -> str:
        if type(value) is str:
            try:
                value = float(value)
            except ValueError:
                return _type(value, wanted)
        elif type(value) is not int and type(value) is not float:
            return "" if type(value) is bool else _type(value, wanted)
        good = (least < value if above else least <= value) and value <= most and not (whole and value % 1)
        return "" if good else f"expected {wanted}, but got {_written(value)}"

    return check


def _messages(value: Any) -> str:
    wanted = "a non-empty array of objects"
    if type(value) is not list:
        return _type(value, wanted)
    if not value:
        return f"expected {wanted}, but got an empty array"
    for place, message in enumerate(value):
        if type(message) is not dict:
            found = kind_of(message)
            return f"expected {wanted}, but its element {place} is {found}"
    return ""


def _objects(value: Any) -> str:
    if type(value) is list and all(type(one) is dict for one in value):
        return ""
    return "expected an array of objects" if type(value) is list else _type(value, "an array of objects")


def _text_or_array(value: Any) -> str:
    return "" if type(value) in (str, list) else _type(value, "a string or an array")


def _scored(value: Any) -> str:
    """Of a score: a text, or an object with parts such as images, or several of these."""
    if type(value) is not list:
        return "" if type(value) in (str, dict) else _type(value, "a string or an array of strings")
    if not value:
        return "expected at least one string, but got an empty array"
    for place, one in enumerate(value):
        if type(one) not in (str, dict):
            found = kind_of(one)
            return f"expected a string or an array of strings, but its element {place} is {found}"
    return ""


def _query(value: Any) -> str:
    return "" if type(value) in (str, dict) else _type(value, "a string")


def _texts(value: Any) -> str:
    if type(value) is str or (type(value) is list and all(type(one) is str for one in value)):
        return ""
    return "expected strings in the array" if type(value) is list else _type(value, "a string or an array of strings")


def _object(value: Any) -> str:
    return "" if type(value) is dict else _type(value, "an object")


INFINITE = float("inf")
_SAMPLING = {
    "temperature": _number(0, 2),
    "top_p": _number(0, 1, above=True),
    "top_k": _number(-1, INFINITE, whole=True),
    "min_p": _number(0, 1),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "repetition_penalty": _number(0, INFINITE, above=True),
    "seed": _number(-(2**63), 2**63, whole=True),
    "stop": _texts,
    "logit_bias": _object,
}
_AT_LEAST_ONE = _number(1, INFINITE, whole=True)
_MORE = {"n": _AT_LEAST_ONE, "min_tokens": _number(0, INFINITE, whole=True)}
CHECKS: dict[str, dict[str, Check]] = {
    "/v1/chat/completions": _SAMPLING
    | _MORE
    | {
        "messages": _messages,
        "max_tokens": _AT_LEAST_ONE,
        "max_completion_tokens": _AT_LEAST_ONE,
        "tools": _objects,
    },
    # None are written where the prompt is to be echoed.
    "/v1/completions": _SAMPLING | _MORE | {"prompt": _text_or_array, "max_tokens": _number(0, INFINITE, whole=True)},
    "/v1/responses": _SAMPLING | {"input": _text_or_array, "max_output_tokens": _AT_LEAST_ONE, "tools": _objects},
    "/v1/embeddings": {"input": _text_or_array},
    "/v1/score": dict.fromkeys(("queries", "documents", "text_1", "text_2", "items", "data_1", "data_2"), _scored),
    "/v1/rerank": {"query": _query, "documents": _scored, "top_n": _number(0, INFINITE, whole=True)},
}
_SHAPES = (_messages, _objects, _text_or_array, _texts, _object)
_WITH_BEAMS = {
    endpoint: {name: check for name, check in checks.items() if check in _SHAPES} for endpoint, checks in CHECKS.items()
}


def refusal(endpoint: str, body: Mapping[str, Any], needed: Sequence[str]) -> tuple[str, str] | None:
    """Why vLLM refuses what is asked, which is in the fields `needed`: the field, and the reason; None when it does
    not."""
    for name in needed:
        if why := CHECKS[endpoint][name](body[name]):
            return name, why
    if endpoint == "/v1/score":
        one, other = (len(body[name]) if type(body[name]) is list else 1 for name in needed)
        if one not in (1, other):
            return needed[0], f"it has {one:,} texts and '{needed[1]}' has {other:,}: give one, or as many"
    return None


def wrong(endpoint: str, body: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first parameter whose value vLLM refuses, and why; None when there is none."""
    checks = _WITH_BEAMS[endpoint] if body.get("use_beam_search") else CHECKS[endpoint]
    for name, value in body.items():
        check = checks.get(name)
        if check is None or value is None or not (why := check(value)):
            continue
        if name == "max_tokens" and body.get("max_completion_tokens") is not None:
            continue  # vLLM then ignores max_tokens
        return name, why
    return None
