"""What each backend of structured outputs makes of ordinary, hard and bad constraints, without an engine.

Each is asked as vLLM asks it: is the constraint taken, does it compile, and then, token by token, is the right answer
let through and the wrong one held up. A 500 is what passes vLLM's check and fails to compile, or allows no token.
"""

import copy
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.rows import Options, Row, median
from benchmarks.system import scratch, tell
from benchmarks.versus import demo_model

BACKENDS = {
    "guidance": ("backend_guidance", "GuidanceBackend"),
    "xgrammar": ("backend_xgrammar", "XgrammarBackend"),
    "outlines": ("backend_outlines", "OutlinesBackend"),
}


@dataclass(frozen=True)
class Case:
    """constraint: as `structured_outputs` of a request. yes, no: an answer that is right, and one that is wrong."""

    kind: str
    constraint: dict[str, Any]
    yes: str | None = None
    no: str | None = None


@dataclass(frozen=True)
class Outcome:
    """verdict: kept, broken (a right answer is held up, or a wrong one let through), 400, 500 or taken. Seconds."""

    verdict: str
    compile: float | None = None
    mask: float | None = None


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    made = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return made | more


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
DEEP: dict[str, Any] = dict(WHOLE)
for _ in range(500):
    DEEP = {"type": "array", "items": DEEP}

CASES = (
    Case("ordinary", {"json": _object({"a": {"type": "boolean"}})}, '{"a": true}', '{"a": 1}'),
    Case(
        "ordinary",
        {"json": _object({"name": TEXT, "age": WHOLE, "emails": {"type": "array", "items": TEXT}})},
        '{"name": "Ann", "age": 3, "emails": ["x"]}',
        '{"name": "Ann", "age": "3", "emails": []}',
    ),
    Case("ordinary", {"json": _object({"c": {"enum": ["red", "green"]}})}, '{"c": "red"}', '{"c": "blue"}'),
    Case(
        "ordinary",
        {
            "json": {
                "$defs": {"P": _object({"x": {"type": "number"}})},
                **_object({"items": {"type": "array", "items": {"$ref": "#/$defs/P"}}}),
            }
        },
        '{"items": [{"x": 1.5}]}',
        '{"items": [{"y": 1.5}]}',
    ),
    Case("ordinary", {"json": _object({"a": {"anyOf": [WHOLE, {"type": "null"}]}})}, '{"a": null}', '{"a": "x"}'),
    Case("ordinary", {"json_object": True}, '{"a": [1]}', "[1]"),
    Case("ordinary", {"choice": ["positive", "negative"]}, "positive", "neutral"),
    Case("ordinary", {"regex": r"\d{3}-\d{4}"}, "555-1234", "55-1234"),
    Case(
        "ordinary",
        {"json": {"type": "object", "properties": {"a": WHOLE}, "required": ["a"]}},
        '{"a": 1}',
        '{"a": "x"}',
    ),
    Case("ordinary", {"json": {}}, '{"a": 1}', "hello"),
    Case("ordinary", {"json": _object({"k": {"const": "v"}})}, '{"k": "v"}', '{"k": "w"}'),
    Case(
        "ordinary",
        {"json": _object({"d": {"type": "string", "format": "date"}})},
        '{"d": "2024-05-06"}',
        '{"d": "today"}',
    ),
    Case(
        "hard",
        {"json": _object({"s": {"type": "string", "minLength": 2, "maxLength": 4}})},
        '{"s": "abc"}',
        '{"s": "abcde"}',
    ),
    Case(
        "hard",
        {"json": _object({"s": {"type": "string", "pattern": "^[A-Z]{2}\\d+$"}})},
        '{"s": "AB12"}',
        '{"s": "ab12"}',
    ),
    Case(
        "hard",
        {"json": _object({"s": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3}})},
        '{"s": "abc"}',
        '{"s": "abcd"}',
    ),
    Case("hard", {"json": _object({"n": {"type": "integer", "minimum": 1, "maximum": 5}})}, '{"n": 5}', '{"n": 6}'),
    Case("hard", {"json": _object({"n": {"type": "integer", "multipleOf": 5}})}, '{"n": 15}', '{"n": 16}'),
    Case("hard", {"json": {"type": "array", "items": WHOLE, "minItems": 2, "maxItems": 3}}, "[1, 2]", "[1]"),
    Case("hard", {"json": {"type": "array", "items": WHOLE, "uniqueItems": True}}, "[1, 2]", "[1, 1]"),
    Case("hard", {"json": {"type": "array", "prefixItems": [WHOLE, TEXT], "items": False}}, '[1, "a"]', '["a", 1]'),
    Case(
        "hard",
        {
            "json": {
                "allOf": [
                    _object({"a": WHOLE}, additionalProperties=True),
                    {"type": "object", "required": ["b"], "properties": {"b": TEXT}},
                ]
            }
        },
        '{"a": 1, "b": "x"}',
        '{"a": 1}',
    ),
    Case("hard", {"json": {"oneOf": [_object({"a": WHOLE}), _object({"b": TEXT})]}}, '{"b": "x"}', '{"c": 1}'),
    Case(
        "hard",
        {"json": {"type": "object", "patternProperties": {"^x_": WHOLE}, "additionalProperties": False}},
        '{"x_a": 1}',
        '{"y": 1}',
    ),
    Case("hard", {"json": {"type": "object", "additionalProperties": WHOLE}}, '{"y": 1}', '{"y": "1"}'),
    Case(
        "hard",
        {
            "json": {
                "$defs": {"T": _object({"v": WHOLE, "kids": {"type": "array", "items": {"$ref": "#/$defs/T"}}})},
                "$ref": "#/$defs/T",
            }
        },
        '{"v": 1, "kids": [{"v": 2, "kids": []}]}',
        '{"v": 1, "kids": [2]}',
    ),
    Case(
        "hard",
        {"json": _object({"u": {"type": "string", "format": "uuid"}})},
        '{"u": "123e4567-e89b-12d3-a456-426614174000"}',
        '{"u": "1"}',
    ),
    Case("hard", {"json": _object({"u": {"type": "string", "format": "colour"}})}, '{"u": "red"}', '{"u": 1}'),
    Case(
        "hard",
        {"json": _object({"c": {"enum": [f"value-{number}" for number in range(500)]}})},
        '{"c": "value-499"}',
        '{"c": "value-500"}',
    ),
    Case(
        "hard",
        {"json": _object({f"field_{n}": TEXT for n in range(30)})},
        json.dumps({f"field_{n}": "x" for n in range(30)}),
        '{"field_1": "x"}',
    ),
    Case("hard", {"choice": [f"label {n}" for n in range(1000)]}, "label 999", "label 1000"),
    Case("hard", {"regex": r"[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}"}, "ann.b@example.org", "ann"),
    Case("hard", {"regex": r"(?=a)[a-z]+"}, "abc", "bcd"),
    Case("hard", {"regex": r"^\d+$"}, "123", "x"),
    Case(
        "hard",
        {"grammar": 'root ::= "SELECT " col " FROM " tab\ncol ::= "a" | "b"\ntab ::= "t" [0-9]+'},
        "SELECT a FROM t1",
        "SELECT c FROM t1",
    ),
    Case("hard", {"grammar": 'start: "SELECT " col " FROM t"\ncol: "a" | "b"'}, "SELECT a FROM t", "SELECT c FROM t"),
    Case(
        "hard",
        {
            "json": {
                "type": "object",
                "properties": {"a": WHOLE},
                "if": {"properties": {"a": {"const": 1}}},
                "then": {"required": ["b"]},
            }
        },
        '{"a": 1, "b": 2}',
        '{"a": 1}',
    ),
    Case("hard", {"json": _object({"a": {"not": {"type": "string"}}})}, '{"a": 1}', '{"a": "x"}'),
    Case(
        "hard",
        {
            "json": {
                "type": "object",
                "properties": {"a": WHOLE, "b": WHOLE},
                "dependentRequired": {"a": ["b"]},
                "additionalProperties": False,
            }
        },
        '{"a": 1, "b": 1}',
        '{"a": 1}',
    ),
    Case("bad", {"json": _object({"a": {"type": "array", "items": [TEXT]}})}, '{"a": ["x"]}', None),
    Case("bad", {"json": {"$ref": "#"}}),
    Case("bad", {"grammar": ""}),
    Case("bad", {"grammar": "   "}),
    Case("bad", {"grammar": 'root ::= "a"\nroot ::= "b"'}),
    Case("bad", {"grammar": "this is no grammar"}),
    Case("bad", {"grammar": "root ::= other"}),
    Case("bad", {"grammar": "root ::= root"}),
    Case("bad", {"json": {"type": "objekt"}}),
    Case("bad", {"json": {"type": 5}}),
    Case("bad", {"json": {"$ref": "#/$defs/none"}}),
    Case("bad", {"json": {"$ref": "https://example.org/s.json"}}),
    Case("bad", {"json": [1]}),
    Case("bad", {"json": json.dumps(False)}),
    Case("bad", {"json": {"enum": []}}),
    Case("bad", {"json": _object({"n": {"type": "integer", "minimum": 5, "maximum": 1}})}),
    Case("bad", {"json": {"type": "object", "required": "a"}}),
    Case("bad", {"json": _object({"s": {"type": "string", "pattern": "(["}})}),
    Case("bad", {"regex": "(["}),
    Case("bad", {"regex": "(a{1,1000}){1,1000}"}),
    Case("bad", {"choice": []}),
    Case("bad", {"choice": [1, 2]}),
    Case("bad", {"json": "{"}),
    Case("bad", {"json": DEEP}),
)


def run(options: Options) -> list[Row]:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    with scratch() as folder:
        model = options.model or demo_model(folder)
        return [row for backend in BACKENDS for row in _rows(backend, list(_outcomes(backend, model)))]


def _rows(backend: str, outcomes: list[tuple[Case, Outcome]]) -> list[Row]:
    def count(kind: str, *verdicts: str) -> float:
        return sum(case.kind == kind and outcome.verdict in verdicts for case, outcome in outcomes)

    def middle(name: str, scale: float) -> float:
        return median([scale * one for _, outcome in outcomes if (one := getattr(outcome, name)) is not None])

    totals = {kind: sum(case.kind == kind for case in CASES) for kind in ("ordinary", "hard", "bad")}
    return [
        Row(f"{backend}: held to, of {totals['ordinary']} ordinary ones", count("ordinary", "kept"), ""),
        Row(f"{backend}: held to, of {totals['hard']} hard ones", count("hard", "kept"), ""),
        Row(f"{backend}: taken and not held to", count("ordinary", "broken") + count("hard", "broken"), ""),
        Row(f"{backend}: 400 to {totals['bad']} bad ones", count("bad", "400"), ""),
        Row(f"{backend}: 500 to bad ones", count("bad", "500"), ""),
        Row(f"{backend}: compiling one", middle("compile", 1000), "ms"),
        Row(f"{backend}: the mask of a token", middle("mask", 1e6), "µs"),
    ]


def _outcomes(name: str, model: Path) -> Iterator[tuple[Case, Outcome]]:
    import importlib

    from transformers import AutoTokenizer
    from vllm.config.structured_outputs import StructuredOutputsConfig

    tokenizer = AutoTokenizer.from_pretrained(model)
    config = StructuredOutputsConfig(backend=name)  # type: ignore[arg-type]
    hugging = SimpleNamespace(model_type="llama")
    whole = SimpleNamespace(
        structured_outputs_config=config,
        speculative_config=None,
        model_config=SimpleNamespace(is_diffusion=False, hf_config=hugging),
    )
    module, kind = BACKENDS[name]
    backend = getattr(importlib.import_module(f"vllm.v1.structured_output.{module}"), kind)(
        whole, tokenizer=tokenizer, vocab_size=json.loads((model / "config.json").read_text())["vocab_size"]
    )
    for case in CASES:
        found = _outcome(backend, whole, tokenizer, case)
        if found.verdict not in ("kept", "400"):
            tell(f"{name}, {found.verdict}: {str(case.constraint)[:100]}")
        yield case, found


def _outcome(backend: Any, whole: Any, tokenizer: Any, case: Case) -> Outcome:
    from vllm.sampling_params import SamplingParams, StructuredOutputsParams
    from vllm.v1.structured_output.request import get_structured_output_key

    try:
        wanted = StructuredOutputsParams(**copy.deepcopy(case.constraint))
        asked = SamplingParams(structured_outputs=wanted)
        asked._validate_structured_outputs(whole.model_config, whole.structured_outputs_config, tokenizer)
    except Exception:  # vLLM's own and pydantic's: each is a 400
        return Outcome("400")
    began = time.perf_counter()
    try:
        assert asked.structured_outputs is not None
        key = get_structured_output_key(asked.structured_outputs)
        backend.compile_grammar(*key)
    except Exception:
        return Outcome("500")
    compiling = time.perf_counter() - began
    masks: list[float] = []

    def takes(text: str) -> bool:
        grammar, mask = backend.compile_grammar(*key), backend.allocate_token_bitmask(1)
        for token in (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id):
            if grammar.is_terminated():
                return True
            started = time.perf_counter()
            grammar.fill_bitmask(mask, 0)
            masks.append(time.perf_counter() - started)
            if not int(mask[0][token // 32]) >> token % 32 & 1:
                return False
            if token != tokenizer.eos_token_id and not grammar.accept_tokens("", [token]):
                return False
        return True

    if case.yes is None:
        grammar, mask = backend.compile_grammar(*key), backend.allocate_token_bitmask(1)
        grammar.fill_bitmask(mask, 0)
        return Outcome("taken" if mask.any() else "500")
    verdict = "kept" if takes(case.yes) and not (case.no and takes(case.no)) else "broken"
    return Outcome(verdict, compiling, median(masks))
