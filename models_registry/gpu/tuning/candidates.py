"""What was measured of each setting, as it stands in the operation's result while it runs and afterwards."""

from dataclasses import dataclass
from typing import Any, TypedDict

from models_registry.gpu.tuning.search import Setting

LEAST_GAIN = 1.02  # what differs by less is the same


class Candidate(TypedDict):
    """One setting that was tried. took: seconds, with the load. less: options that were reduced so that it fits.
    error: why it was not measured to the end; then it is not the best."""

    setting: Setting
    requests: int
    failed: int
    requests_per_second: float
    tokens_per_second: float
    latency_p50: float | None
    load_seconds: float | None
    less: dict[str, Any]
    took: float
    error: str


class Tuning(TypedDict):
    """An operation's result.

    own: the model's engine options when it began. options: the engine's without changes, with their defaults.
    candidates: the first one without changes. trying: the setting that is being measured. best: the setting that was
    fastest, empty when none was faster than the model's own. gain: by which factor it was faster. kept: whether the
    model has it now. input_tokens: of the sample.
    """

    own: dict[str, Any]
    options: dict[str, Any]
    candidates: list[Candidate]
    trying: Setting | None
    best: Setting
    gain: float | None
    kept: bool
    sample: str
    input_tokens: int
    ended: str


def unmeasured(setting: Setting, error: str, took: float = 0.0) -> Candidate:
    return {
        "setting": setting,
        "requests": 0,
        "failed": 0,
        "requests_per_second": 0.0,
        "tokens_per_second": 0.0,
        "latency_p50": None,
        "load_seconds": None,
        "less": {},
        "took": took,
        "error": error,
    }


def is_better(one: Candidate, best: Candidate) -> bool:
    """Is this one faster, and does it as much? Both have sent the same requests."""
    if one["error"] or one["failed"] > best["failed"] or one["less"] != best["less"]:
        return False
    return one["tokens_per_second"] > LEAST_GAIN * best["tokens_per_second"]


def find(tuning: Tuning, setting: Setting) -> Candidate | None:
    return next((one for one in tuning["candidates"] if one["setting"] == setting), None)


def best_of(tuning: Tuning) -> Candidate:
    return find(tuning, tuning["best"]) or tuning["candidates"][0]


def said(one: Candidate) -> str:
    """What was measured, as a sentence of the log."""
    row = _row(one, is_best=False)
    if not one["requests"]:
        return f"not measured: {row.remark}"
    requests, tokens, p50, load, failed = row.numbers
    numbers = f"{requests} requests/s, {tokens} tokens/s, p50 {p50} s, loaded in {load} s"
    return ". ".join(part for part in (numbers + (f", {failed} failed" if one["failed"] else ""), row.remark) if part)


@dataclass(frozen=True)
class Row:
    """A candidate for people to read. numbers: requests/s, tokens/s, median latency, load seconds, failed."""

    setting: str
    numbers: tuple[str, ...]
    remark: str
    is_best: bool


def table(tuning: Tuning) -> list[Row]:
    best = best_of(tuning)["setting"] if tuning["candidates"] else None
    return [_row(one, one["setting"] == best) for one in tuning["candidates"]]


def _row(one: Candidate, is_best: bool) -> Row:
    less = " and ".join(f"{name} {value}" for name, value in one["less"].items())
    remark = ". ".join(part for part in (less and f"It fits only with {less}", one["error"]) if part)
    if not one["requests"]:
        return Row(words(one["setting"]), ("-",) * 5, remark, is_best)
    p50, load = one["latency_p50"], one["load_seconds"]
    numbers = (
        f"{one['requests_per_second']:,.2f}",
        f"{one['tokens_per_second']:,.1f}",
        "-" if p50 is None else f"{p50:.2f}",
        "-" if load is None else f"{load:.1f}",
        f"{one['failed']:,}",
    )
    return Row(words(one["setting"]), numbers, remark, is_best)


def words(setting: Setting) -> str:
    """A setting in words, as options are written."""
    return ", ".join(_word(name, value) for name, value in setting.items()) or "as it is"


def _word(name: str, value: Any) -> str:
    if value is None:
        return f"without {name}"
    if isinstance(value, bool):
        return name if value else f"no-{name}"
    return f"{name} {value.get('method', 'on') if isinstance(value, dict) else value}"
