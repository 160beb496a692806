"""What is written down of loads and turns, and what it is counted from."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from models_registry.engine.client import Answer
from models_registry.engine.machine import identity
from models_registry.engine.server import Engine
from models_registry.engine.spec import Address, StartResult
from models_registry.fit import judge
from models_registry.gpu import benchmark
from models_registry.models import Measurement, Model
from models_registry.speed import measurements


@pytest.mark.parametrize(
    "values, half, nearly_all",
    [([], None, None), ([3.0], 3.0, 3.0), ([1.0, 2.0], 1.0, 2.0), ([float(n) for n in range(1, 101)], 50.0, 99.0)],
)
def test_percentiles(values, half, nearly_all):
    assert measurements.percentile(values, 50) == half
    assert measurements.percentile(values, 99) == nearly_all


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(measurements, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_a_tally_counts_from_the_first_request_to_the_last_answer(clock):
    tally = measurements.Tally()
    assert tally.fields()["seconds"] == 0 and tally.fields()["latency_p50"] is None
    for key in "abc":
        tally.sent(key)
        clock.seconds += 1
    tally.answered("b", True, 10, 5)
    clock.seconds += 2
    tally.answered("c", False)
    tally.answered("a", True, 20, 7)
    clock.seconds += 60
    assert tally.fields() == {
        "requests": 2,
        "failed": 1,
        "input_tokens": 30,
        "output_tokens": 12,
        "seconds": 5.0,
        "share": 1.0,
        "at_once": 3,
        "latency_p50": 2.0,
        "latency_p99": 5.0,
        "latency_mean": 3.5,
    }


def test_what_was_sent_and_not_answered_counts_for_nothing(clock):
    tally = measurements.Tally()
    tally.sent("a")
    tally.sent("b")
    clock.seconds += 3
    tally.answered("a", True)
    clock.seconds += 100
    assert (tally.seconds, tally.requests, tally.failed) == (3.0, 1, 0)


def test_what_shares_an_engine_has_its_part_of_it(clock):
    """Base and adapter at once: 30 and 10 requests in flight, each answer takes 2 s, for 10 s; then the base alone."""
    engine = measurements.InFlight()
    base, adapter = measurements.Tally(engine), measurements.Tally(engine)
    for step in range(10):
        for tally, count in ((base, 30), (adapter, 10 if step < 5 else 0)):
            for number in range(count):
                tally.sent((step, number))
        clock.seconds += 2
        for tally, count in ((base, 30), (adapter, 10 if step < 5 else 0)):
            for number in range(count):
                tally.answered((step, number), True)
    found, beside = base.fields(), adapter.fields()
    assert (found["seconds"], beside["seconds"]) == (20, 10) and found["latency_mean"] == beside["latency_mean"] == 2
    assert (found["at_once"], beside["at_once"], beside["share"]) == (40, 40, 0.25)
    assert found["share"] == pytest.approx(600 / 700)
    rate = base.requests / (base.seconds * base.share)
    assert rate == pytest.approx(17.5), "20 a second with 40 at once, and 15 with 30"
    assert adapter.requests / (adapter.seconds * adapter.share) == pytest.approx(20)


def test_what_was_aborted_is_not_in_flight_any_more(clock):
    engine = measurements.InFlight()
    tally, other = measurements.Tally(engine), measurements.Tally(engine)
    tally.sent("a")
    other.sent("b")
    clock.seconds += 1
    other.aborted("b")
    other.aborted("b")
    clock.seconds += 9
    tally.answered("a", True)
    assert engine.count == 0 and tally.share == pytest.approx(10 / 11) and other.requests == 0


def test_a_tally_keeps_apart_the_answers_without_a_limit(clock):
    tally = measurements.Tally()
    for key, is_unlimited in (("a", False), ("b", True), ("c", True), ("d", True)):
        tally.sent(key, is_unlimited)
    tally.answered("a", True, 1, 5)
    tally.answered("b", True, 1, 100)
    tally.answered("c", False)
    assert (tally.unlimited, tally.unlimited_tokens, tally.output_tokens) == (1, 100, 105)


def test_a_tally_tells_how_long_the_oldest_is_in_flight(clock):
    tally = measurements.Tally()
    assert tally.oldest is None
    for key in "abc":
        tally.sent(key)
        clock.seconds += 10
    tally.answered("b", True)
    assert tally.oldest == 30.0
    tally.answered("a", True)
    assert tally.oldest == 10.0
    tally.answered("c", False)
    assert tally.oldest is None


def engine_of(model, pid=1, **options):
    start = StartResult(seconds=12.5, options=options)
    return Engine(model.spec(), Address("http://engine/v1"), 8, pid, Path("/no/log"), start)


@pytest.fixture
def model(db):
    return Model.objects.create(name="m", kind="scripted")


def test_a_load_stands_beside_what_had_been_said_of_it(model, monkeypatch):
    asked = []
    monkeypatch.setattr(measurements.memory, "used_by", lambda engine: 5 * 2**30)
    monkeypatch.setattr(judge, "predicted", lambda *about: asked.append(about) or 4 * 2**30)
    engine = engine_of(model, **{"max-model-len": 4096})
    measurements.record_load(model, engine)
    one = Measurement.objects.get()
    assert (one.kind, one.load_seconds, one.memory_bytes, one.predicted_bytes) == ("load", 12.5, 5 * 2**30, 4 * 2**30)
    assert one.options == {"max-model-len": 4096} and one.machine == identity.name()
    assert one.versions == identity.versions()
    assert asked == [(model, {"max-model-len": 4096}, Path("/no/log"))], "as it was started, not as it was asked for"


def test_of_a_server_of_others_there_is_no_load(model):
    measurements.record_load(model, engine_of(model, pid=None))
    assert not Measurement.objects.exists()


def test_a_model_that_is_gone_meanwhile_is_no_error(transactional_db):
    model = Model.objects.create(name="m", kind="scripted")
    Model.objects.filter(pk=model.pk).delete()
    measurements.record_load(model, engine_of(model))
    assert not Measurement.objects.exists() and not Model.objects.exists()


def test_the_machine_has_a_name_and_versions_without_loading_anything():
    assert 3 < len(identity.name()) <= 200 and "\n" not in identity.name()
    assert set(identity.versions()) <= {"vllm", "torch"}


@pytest.mark.parametrize(
    "answer, words",
    [
        (Answer(0, 200, b"{}"), ""),
        (Answer(0, 200, b"[1]"), "not a JSON object"),
        (Answer(0, 200, b'{"id": '), "not a JSON object"),
        (Answer(0, 400, b'{"error": {"message": "too long"}}'), "400: too long"),
        (Answer(0, 400, b'{"message": "too long"}'), "400: too long"),
        (Answer(0, 404, b'{"error": "nothing here"}'), "404: nothing here"),
        (Answer(0, 502, b"<html>bad \xff gateway"), "502: <html>bad"),
        (Answer(0, 500, b""), "answered 500"),
        (Answer(0, None, b"", None, "connection_lost", "The connection was lost."), "The connection was lost."),
    ],
)
def test_what_an_answer_says_when_it_is_none(answer, words):
    said = benchmark.failure(answer)
    assert words in said and bool(said) == bool(words)


@pytest.mark.parametrize(
    "usage, counts",
    [
        ('{"prompt_tokens": 3, "completion_tokens": 4}', (3, 4)),
        ('{"prompt_tokens": 3}', (3, 0)),
        ('{"prompt_tokens": -3, "completion_tokens": "4"}', (0, 0)),
        ('{"prompt_tokens": 99999999999}', (0, 0)),
        ("[]", (0, 0)),
        ("null", (0, 0)),
    ],
)
def test_tokens_are_as_the_engine_counts_them(usage, counts):
    assert benchmark.tokens(Answer(0, 200, f'{{"usage": {usage}}}'.encode())) == counts


def test_an_engine_of_ours_is_made_to_write_as_much_as_was_asked():
    options = {"requests": 50, "prompt_tokens": 3, "seed": 0, "max_tokens": 9}
    for kind, exactly in (("vllm", True), ("remote", None)):
        bodies = [json.loads(call.body) for call in benchmark.calls(Model(name="m", kind=kind, task="chat"), options)]
        assert {body["max_tokens"] for body in bodies} == {5, 6, 7, 8, 9}
        assert all(body.get("ignore_eos") == exactly for body in bodies)
