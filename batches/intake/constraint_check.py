"""Asks llguidance, which comes with vLLM, whether constraints can be satisfied: one line of JSON in, one line out.

It runs as a process of its own, because a hostile constraint may take all time and memory: both are limited here, and
the caller may kill it. It is started as `python -m batches.intake.constraint_check`.
"""

import json
import re
import resource
import sys
from typing import Any

MOST_MEMORY = 2**30  # bytes of addresses
MOST_SECONDS = 60  # of processor time, in case the caller is dead
NO_RULES = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*')
RULE = re.compile(r"(?m)^[ \t]*([\w-]+)\s*::=")
NOTHING_FITS = "NoExtension"  # the beginning of llguidance's error when no text satisfies the constraint
LARK = re.compile(r"(?m)^\s*(%llguidance\b|start\s*:)")


class Bytes:
    """The smallest tokenizer: a token for each byte, and one that ends an answer."""

    eos_token_id, bos_token_id = 256, None
    special_token_ids = (256,)
    tokens = (*(bytes((value,)) for value in range(256)), b"<|end|>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def twice(grammar: str) -> str:
    """The first rule that a GBNF grammar has twice, of which llguidance silently takes the last; empty if none."""
    seen: set[str] = set()
    for name in () if LARK.search(grammar) else RULE.findall(NO_RULES.sub('""', grammar)):
        if name in seen:
            return str(name)
        seen.add(name)
    return ""


def wrong(kind: str, spec: str, tokenizer: Any) -> str:
    """Why this constraint is wrong though vLLM accepts it: it would end the answer at once, or apply only a part of it.

    Empty when it is not, and for a constraint that vLLM itself refuses with a reason.
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
        return f"it has the rule '{name}' twice, and only the last of them would count"
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
