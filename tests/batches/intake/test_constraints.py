"""Constraints that vLLM's backend `guidance` takes, and makes empty answers of. Those it refuses are left to it."""

import io
import json
import time

import pytest

from batches.intake import constraints, ingest
from batches.intake.constraints import Constraints
from batches.intake.parameters import Serving
from batches.intake.validate import Report, Rules, read
from models_registry.models import Model
from tests.engines import CHAT, line

pytest.importorskip("llguidance", reason="it comes with vLLM, which is not installed here")

LOOP = {"$ref": "#"}
NEVER = "there is no text that fits it"
BAD = [
    ({"structured_outputs": {"json": LOOP}}, NEVER),
    ({"structured_outputs": {"json": json.dumps(LOOP)}}, NEVER),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": LOOP}}}, NEVER),
    ({"text": {"format": {"type": "json_schema", "name": "n", "schema": LOOP}}}, NEVER),
    ({"structured_outputs": {"json": {"anyOf": [LOOP, LOOP]}}}, NEVER),
    ({"structured_outputs": {"grammar": "root ::= root"}}, NEVER),
    ({"structured_outputs": {"grammar": "root ::= a\na ::= root"}}, NEVER),
    ({"structured_outputs": {"grammar": "start: start"}}, NEVER),
    ({"structured_outputs": {"regex": r"[^\s\S]"}}, NEVER),
    ({"structured_outputs": {"grammar": 'root ::= "a"\nroot ::= "b"'}}, "the rule 'root' twice"),
]
GOOD = [
    {},
    {"structured_outputs": None},
    {"structured_outputs": {"json": {"anyOf": [LOOP, {"type": "integer"}]}}},
    {"structured_outputs": {"json": {"type": "object", "properties": {"a": LOOP}}}},
    {"structured_outputs": {"grammar": 'root ::= "a" root | "b" # root ::= root'}},
    {"structured_outputs": {"grammar": 'root ::= "\nroot ::= x" | [\n]'}},
    {"structured_outputs": {"grammar": 'start: <|end_of_text|> "x"'}},
    {"structured_outputs": {"regex": "a*", "whitespace_pattern": 5}},
    {"structured_outputs": {"choice": ["a", ""]}},
    {"response_format": {"type": "json_object"}},
    # What vLLM refuses with the reason, for the line alone.
    {"structured_outputs": {"json": {"type": "objekt"}}},
    {"structured_outputs": {"json": {"enum": []}}},
    {"structured_outputs": {"grammar": "this is no grammar"}},
    {"structured_outputs": {"choice": [1]}},
    {"structured_outputs": {"json": 7, "regex": {"a": 1}}},
]


def checked(*bodies, **serving):
    report = Report()
    rules = Rules(CHAT, lambda name: None, 100_000, 2**20, serving=lambda name: Serving(**serving))
    lines = [line(f"{number}") | {"body": line("")["body"] | body} for number, body in enumerate(bodies)]
    content = b"\n".join(json.dumps(one).encode() for one in lines)
    return [int(one.custom_id) for one in read(io.BytesIO(content), rules, report)], report.errors


def test_what_would_end_in_an_empty_answer_is_named_with_its_line():
    good, errors = checked(*(body for body, _ in BAD), *GOOD, by_guidance=True)
    assert good == [len(BAD) + place for place in range(len(GOOD))]
    assert [one["line"] for one in errors] == list(range(1, len(BAD) + 1))
    for (body, said), error in zip(BAD, errors, strict=True):
        assert (error["code"], error["param"]) == ("invalid_constraint", f"body.{next(iter(body))}")
        assert said in error["message"], error


def test_one_that_nests_too_deeply_stops_nothing():
    deep = json.loads('{"items":' * 300 + "{}" + "}" * 300)
    good, (error,) = checked({"structured_outputs": {"json": deep}}, {}, by_guidance=True)
    assert good == [1] and error["code"] == "invalid_json_line"


def test_what_is_known_is_refused_also_when_the_time_is_over(monkeypatch):
    monkeypatch.setattr(constraints, "ALL_SECONDS", 1e-9)
    good, errors = checked(BAD[0][0], BAD[5][0], BAD[0][0], by_guidance=True)
    assert good == [1] and [one["line"] for one in errors] == [1, 3]


def test_other_backends_are_not_asked_for(monkeypatch):
    monkeypatch.setattr(constraints, "COMMAND", ["false"])
    assert checked(BAD[0][0], by_guidance=False)[0] == [0]


@pytest.mark.parametrize(
    "fields, by_guidance",
    [
        ({"kind": "vllm"}, True),
        ({"kind": "vllm", "engine_args": {"structured-outputs-config": {"backend": "xgrammar"}}}, False),
        ({"kind": "remote", "source": "https://x/v1"}, False),
        ({"kind": "scripted"}, False),
    ],
)
def test_which_engines_hold_answers_so(fields, by_guidance):
    model = Model(name="m", **fields)
    assert ingest._serving({"m": model}, "m").by_guidance is by_guidance


@pytest.fixture
def asked(monkeypatch):
    """How often a process is started, and how often it is asked."""
    counts = {"started": 0, "asked": 0}
    start, answer = constraints._start, Constraints._answer

    def started():
        counts["started"] += 1
        return start()

    def answered(self, question):
        counts["asked"] += 1
        return answer(self, question)

    monkeypatch.setattr(constraints, "_start", started)
    monkeypatch.setattr(Constraints, "_answer", answered)
    return counts


def test_the_same_one_is_asked_for_once(asked):
    good, errors = checked(*[GOOD[2], BAD[0][0]] * 500, by_guidance=True)
    assert (len(good), len(errors)) == (500, 500) and asked == {"started": 1, "asked": 2}


def test_no_process_where_there_is_nothing_to_ask(asked):
    checked({}, {"temperature": 1}, by_guidance=True)
    assert asked == {"started": 0, "asked": 0}


def test_one_that_holds_it_up_is_left_to_the_engine_and_so_are_all_when_the_time_is_over(asked, monkeypatch):
    slow = "import sys, time\nprint(flush=True)\nfor line in sys.stdin:\n    'slow' in line and time.sleep(60)\n"
    slow += "    print('\"\"', flush=True)"
    monkeypatch.setattr(constraints, "COMMAND", [constraints.sys.executable, "-c", slow])
    monkeypatch.setattr(constraints, "START_SECONDS", 5.0)
    monkeypatch.setattr(constraints, "ONE_SECONDS", 0.5)
    monkeypatch.setattr(constraints, "ALL_SECONDS", 4.0)
    began = time.monotonic()
    bodies = [{"structured_outputs": {"regex": f"{('fast', 'slow')[number % 2]}{number}"}} for number in range(200)]
    good, errors = checked(*bodies, by_guidance=True)
    assert len(good) == 200 and not errors and time.monotonic() - began < 30
    assert 2 <= asked["started"] < asked["asked"] < 200


def test_one_that_is_too_large_is_not_asked_for(asked):
    large = {"structured_outputs": {"regex": "a" * constraints.MOST_BYTES}}
    assert checked(large, by_guidance=True)[0] == [0] and asked["asked"] == 0


def test_a_process_that_cannot_start_stops_nothing(monkeypatch):
    monkeypatch.setattr(constraints, "COMMAND", ["false"])
    assert checked(BAD[0][0], BAD[5][0], by_guidance=True)[0] == [0, 1]
