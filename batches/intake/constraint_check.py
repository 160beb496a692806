"""Asks llguidance, which comes with vLLM, what it makes of constraints: a line of JSON in for each, and one out.

A process of its own, for a constraint may be made to take all time and memory: both are bounded here, and whoever asks
may end it. Knows no Django and no vLLM; started as `python -m batches.intake.constraint_check`.
"""

import json
import re
import resource
import sys
from typing import Any

MOST_MEMORY = 2**30  # bytes of addresses
MOST_SECONDS = 60  # of processor time, should whoever asks be dead
NO_RULES = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*')
RULE = re.compile(r"(?m)^[ \t]*([\w-]+)\s*::=")
NOTHING_FITS = "NoExtension"  # so llguidance's error begins, but not of what is too large or asks for a model's tokens
LARK = re.compile(r"(?m)^\s*(%llguidance\b|start\s*:)")


class Bytes:
    """The least tokenizer: a token for each byte, and one that ends an answer."""

    eos_token_id, bos_token_id = 256, None
    special_token_ids = (256,)
    tokens = (*(bytes((value,)) for value in range(256)), b"<|end|>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def twice(grammar: str) -> str:
    """The first rule that a GBNF grammar has twice, of which llguidance takes the last without a word; else empty."""
    seen: set[str] = set()
    for name in () if LARK.search(grammar) else RULE.findall(NO_RULES.sub('""', grammar)):
        if name in seen:
            return str(name)
        seen.add(name)
    return ""


def wrong(kind: str, spec: str, tokenizer: Any) -> str:
    """Why vLLM would take this constraint, and end its answer at once, or hold it to less than is meant; else empty.

    What vLLM refuses with the reason is left to it.
    """
    import llguidance

    try:
        if kind == "json":
            grammar = llguidance.LLMatcher.grammar_from_json_schema(spec, defaults={"whitespace_flexible": True})
        else:
            grammar = llguidance.grammar_from(kind, spec)  # type: ignore[arg-type]
    except (ValueError, KeyError, TypeError):
        return ""
    if llguidance.LLMatcher.validate_grammar(grammar, None):
        return ""
    if kind == "grammar" and (name := twice(spec)):
        return f"it has the rule '{name}' twice, and only the last one would count"
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    matcher.compute_bitmask()
    return "there is no text that fits it" if matcher.get_error().startswith(NOTHING_FITS) else ""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    from llguidance import LLTokenizer, TokenizerWrapper

    tokenizer = LLTokenizer(TokenizerWrapper(Bytes()))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        kind, spec = json.loads(line)
        print(json.dumps(wrong(kind, spec, tokenizer)), flush=True)


if __name__ == "__main__":
    main()
