"""Which settings of an engine are tried, one after the other, until none is better. Pure: no engine, no database.

Option by option: the best setting so far is kept, and the next option is varied. That finds no optimum in which two
options help only together, but it takes a dozen starts of the engine instead of hundreds.
"""

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

Setting = dict[str, Any]  # options that differ from the model's own; None leaves one out
Way = list[Any]  # values of one option, each tried as long as the one before was better

LEAST_TOKENS = 256  # in one step
NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 4}


@dataclass(frozen=True)
class Facts:
    """What decides which settings could matter.

    takes: has the engine this option? requests: how many are sent. input_tokens: that these have together. context: the
    longest request in tokens, where it is known. writes: its answers are tokens. on_cpu: it computes on the processor.
    """

    takes: Callable[[str], bool]
    requests: int
    input_tokens: int
    context: int | None = None
    writes: bool = True
    on_cpu: bool = False


def search(options: Mapping[str, Any], facts: Facts) -> Generator[Setting, bool]:
    """Yields settings to try. The caller sends whether each is the best so far; the first `next` needs no answer.

    options: the engine's, as it is started without changes.
    """
    best: Setting = {}
    for option, ways in _WAYS.items():
        if not facts.takes(option):
            continue
        for way in ways(changed(options, best), facts):
            won = False
            for value in way:
                if not (yield {**best, option: value}):
                    break
                best, won = {**best, option: value}, True
            if won:  # so the other way is worse
                break


def changed(own: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    """A model's engine options with this setting."""
    kept = {name: value for name, value in own.items() if name.removeprefix("no-") not in setting}
    return kept | {name: value for name, value in setting.items() if value is not None}


def _dtype(options: Setting, facts: Facts) -> list[Way]:
    """Which type is faster on a processor depends on its instructions; on a GPU it is known to be the short one."""
    if not facts.on_cpu:
        return []
    return [["bfloat16"]] if options.get("dtype") == "float32" else [["float32"]]


def _sequences(options: Setting, facts: Facts) -> list[Way]:
    now = options.get("max-num-seqs")
    if not isinstance(now, int):
        return []
    most = options.get("max-num-batched-tokens", math.inf)
    up = [2 * now, 4 * now]
    # More places than requests stay empty, so there the time is the same.
    ways = [[number for number in up if number <= most and number < 2 * facts.requests]]
    return [*ways, [number for number in (now // 2, now // 4) if 1 <= number < facts.requests]]


def _tokens(options: Setting, facts: Facts) -> list[Way]:
    now = options.get("max-num-batched-tokens")
    if not isinstance(now, int):
        return []
    least = max(LEAST_TOKENS, options.get("max-num-seqs", 1))
    if not _is_on(options, "enable-chunked-prefill"):
        least = max(least, facts.context or now)
    up = [number for number in (2 * now, 4 * now) if number < 2 * facts.input_tokens]
    return [up, [number for number in (now // 2, now // 4) if number >= least]]


def _prefixes(options: Setting, facts: Facts) -> list[Way]:
    return [[not _is_on(options, "enable-prefix-caching")]] if facts.writes else []


def _chunks(options: Setting, facts: Facts) -> list[Way]:
    is_on, tokens = _is_on(options, "enable-chunked-prefill"), options.get("max-num-batched-tokens")
    if not facts.writes:
        return []
    # In one piece, a prompt has to fit into a step.
    fits = facts.context is not None and isinstance(tokens, int) and tokens >= facts.context
    return [[not is_on]] if fits or not is_on else []


def _speculation(options: Setting, facts: Facts) -> list[Way]:
    """Guesses of the next tokens from the prompt, which are free where answers repeat it."""
    if not facts.writes:
        return []
    return [[None]] if options.get("speculative-config") else [[NGRAM]]


def _is_on(options: Mapping[str, Any], switch: str) -> bool:
    """vLLM has both switches on, unless it is told otherwise."""
    return not options.get(f"no-{switch}") and options.get(switch, True) is not False


# In the order in which they are tried: first what matters most.
_WAYS: dict[str, Callable[[Setting, Facts], list[Way]]] = {
    "dtype": _dtype,
    "max-num-seqs": _sequences,
    "max-num-batched-tokens": _tokens,
    "enable-prefix-caching": _prefixes,
    "enable-chunked-prefill": _chunks,
    "speculative-config": _speculation,
}
