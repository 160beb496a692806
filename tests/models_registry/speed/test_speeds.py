"""How fast a model is, from what was measured."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from models_registry.api.wire import model_object
from models_registry.models import Measurement, Model
from models_registry.serving.engines import Availability
from models_registry.speed import speeds

pytestmark = pytest.mark.django_db
NOW = timezone.now()


def model(name, **fields):
    return Model.objects.create(name=name, kind="scripted", **fields)


def turn(model, requests=10, seconds=5.0, minutes=0, kind="batch", **fields):
    at = NOW - timedelta(minutes=minutes)
    return Measurement.objects.create(model=model, kind=kind, requests=requests, seconds=seconds, at=at, **fields)


def load(model, seconds, minutes=0):
    at = NOW - timedelta(minutes=minutes)
    Measurement.objects.create(model=model, kind="load", load_seconds=seconds, at=at)


def test_of_a_model_never_measured_nothing_is_said():
    assert speeds.of(model("new")) == speeds.all()[Model.objects.get().pk] == speeds.UNKNOWN
    assert speeds.UNKNOWN.requests_per_second is None and speeds.UNKNOWN.measurements == 0


def test_a_long_turn_counts_for_more_than_a_short_one():
    one = model("one")
    turn(one, requests=90, seconds=9.0, input_tokens=900, output_tokens=1800, minutes=3)
    small = {"options": {"max-num-seqs": 8}, "kind": "benchmark", "minutes": 1}
    turn(one, requests=10, seconds=91.0, input_tokens=100, output_tokens=200, **small)
    speed = speeds.of(one)
    assert speed.requests_per_second == pytest.approx(1.0)
    assert (speed.input_tokens_per_second, speed.output_tokens_per_second) == pytest.approx((10.0, 20.0))
    assert (speed.input_tokens, speed.output_tokens) == pytest.approx((10.0, 20.0))
    assert (speed.measurements, speed.measured_at, speed.model) == (2, NOW - timedelta(minutes=1), "one")
    assert speed.sequences == 8


@pytest.mark.parametrize("fields", [{"requests": 0, "failed": 7}, {"seconds": 0.0}, {"seconds": None}])
def test_a_turn_that_answered_nothing_tells_nothing(fields):
    one = model("one")
    turn(one, **fields)
    assert speeds.of(one) == speeds.UNKNOWN
    turn(one, requests=8, seconds=2.0)
    assert speeds.of(one).requests_per_second == 4.0 and speeds.of(one).measurements == 1


def test_answers_without_a_limit_have_a_pace_of_their_own():
    one = model("one")
    turn(one, requests=10, seconds=5.0, output_tokens=100, kind="benchmark")
    speed = speeds.of(one)
    assert (speed.limited, speed.unlimited) == (0.5, None)
    assert (speed.pace(0.0), speed.pace(0.01), speeds.UNKNOWN.pace(0.0)) == (0.5, None, None)
    turn(one, requests=10, unlimited=4, seconds=40.0, output_tokens=1000, unlimited_tokens=900)
    speed = speeds.of(one)
    assert (speed.limited, speed.unlimited) == pytest.approx(((5 + 4) / 16, 36 / 4))
    assert speed.requests_per_second == pytest.approx(20 / 45)
    assert speed.pace(0.25) == pytest.approx(0.75 * 9 / 16 + 0.25 * 9)


def test_a_speed_in_tokens_is_of_those_written_or_of_those_read():
    one = model("one")
    turn(one, seconds=5.0, input_tokens=50, output_tokens=10)
    assert speeds.of(one).tokens_per_second == 2.0
    Measurement.objects.update(output_tokens=0)
    assert speeds.of(one).tokens_per_second == 10.0
    Measurement.objects.update(input_tokens=0)
    assert speeds.of(one).tokens_per_second is None, "a server that counts none"


def test_how_long_answers_take_is_told_by_turns_with_as_many_in_flight():
    one = model("one")
    assert speeds.of(one).usual(100, 0.0) is None
    turn(one, requests=3, seconds=2.0, latency_p50=1.0, latency_p99=2.0, latency_mean=1.2, minutes=2)
    full = {"latency_p50": 5.0, "latency_p99": 9.0, "latency_mean": 6.0}
    turn(one, requests=1000, seconds=60.0, options={"max-num-seqs": 80}, **full)
    turn(one, requests=1000, seconds=60.0, options={"max-num-seqs": 80}, minutes=1, **full)
    speed = speeds.of(one)
    assert speed.window == 100 and speeds.UNKNOWN.window == speeds.WINDOW, "of the last whose options are known"
    for at_once, turns in ((1, (1.0, 2.0, 1.2, 3)), (160, (5.0, 9.0, 6.0, 100))):
        found = speed.usual(at_once, 0.0)
        assert (found.median, found.most, found.mean, found.at_once) == pytest.approx(turns)
    assert speed.usual(100, 0.5) is None, "of those without a limit nothing is known"


def test_a_turn_beside_others_counts_by_its_share_of_the_engine():
    one = model("one")
    times = {"latency_p50": 2.0, "latency_p99": 2.0, "latency_mean": 2.0}
    turn(one, requests=50, seconds=10.0, output_tokens=500, share=0.25, at_once=40, **times)
    speed = speeds.of(one)
    assert (speed.requests_per_second, speed.output_tokens_per_second, speed.limited) == (20.0, 200.0, 0.05)
    assert speed.usual(160, 0.0) == speeds.Answers(2.0, 2.0, 2.0, 40, 50)


def test_what_was_measured_before_the_mean_was_kept_still_tells():
    one = model("one")
    turn(one, requests=1000, seconds=50.0, options={"max-num-seqs": 80}, latency_p50=4.0, latency_p99=20.0)
    assert speeds.of(one).usual(100, 0.0) == speeds.Answers(4.0, 20.0, 5.0, 100, 1000)
    Measurement.objects.update(latency_p50=None, latency_p99=None)
    assert speeds.of(one).usual(100, 0.0) == speeds.Answers(5.0, 5.0, 5.0, 100, 1000)


def test_where_only_answers_without_a_limit_were_measured_others_take_no_longer():
    one = model("one")
    turn(one, requests=10, unlimited=10, seconds=20.0, output_tokens=1000, unlimited_tokens=1000)
    speed = speeds.of(one)
    assert (speed.limited, speed.unlimited, speed.pace(0.0), speed.pace(1.0)) == (None, 2.0, 2.0, 2.0)
    turn(one, requests=10, unlimited=5, seconds=20.0)  # an engine that does not count
    assert speeds.of(one).pace(1.0) == 2.0


def test_the_time_to_load_is_the_median_and_is_known_before_any_turn():
    one = model("one")
    for minutes, seconds in enumerate((30.0, 20.0, 500.0)):
        load(one, seconds, minutes)
    speed = speeds.of(one)
    assert speed.load_seconds == 30.0 and speed.requests_per_second is None and speed.measurements == 0
    turn(one, kind="benchmark", load_seconds=29.0)
    assert speeds.of(one).load_seconds == 29.5


def test_only_the_newest_count_whatever_their_kind():
    one = model("one")
    for minutes in range(1, 60):
        turn(one, requests=1, seconds=1.0, minutes=100 + minutes)
        load(one, 1.0, 100 + minutes)
        turn(one, requests=20, seconds=1.0, minutes=minutes, kind="batch" if minutes % 2 else "benchmark")
        load(one, 9.0, minutes)
    speed = speeds.of(one)
    assert speed.requests_per_second == 20.0 and speed.measurements == speeds.RECENT and speed.load_seconds == 9.0


def test_an_adapter_has_its_bases_until_it_has_its_own():
    base = model("base")
    tuned = model("tuned", base=base)
    turn(base, requests=10, seconds=1.0)
    load(base, 7.0)
    for speed in (speeds.of(tuned), speeds.all()[tuned.pk]):
        assert (speed.requests_per_second, speed.load_seconds, speed.model) == (10.0, 7.0, "base")
    turn(tuned, requests=3, seconds=1.0)
    for speed in (speeds.of(tuned), speeds.all()[tuned.pk]):
        assert (speed.requests_per_second, speed.load_seconds, speed.model) == (3.0, 7.0, "tuned")
    assert speeds.of(base).requests_per_second == 10.0


def test_the_number_of_queries_does_not_grow():
    def count():
        with CaptureQueriesContext(
            connection,
        ) as queries:
            speeds.all()
        return len(queries)

    for n in range(30):
        for minutes in range(3):
            turn(model(f"{n}-{minutes}"), minutes=minutes)
    assert count() == 2
    with CaptureQueriesContext(connection) as queries:
        speeds.of(Model.objects.select_related("base").first())
    assert len(queries) == 2  # the model, and its measurements


def test_all_and_of_agree():
    base = model("base")
    made = [base, model("a", base=base), model("b"), model("c")]
    for n, one in enumerate(made[:3]):
        turn(one, requests=n + 1, seconds=2.0)
        load(one, n + 1.0)
    found = speeds.all()
    assert found == {one.pk: speeds.of(one) for one in made}


def test_on_the_wire():
    one = model("one", engine_args={"quantization": "awq"}, revision="abc", license="mit", trust_remote_code=True)
    shown = model_object(one, set())
    assert (shown["state"], shown["reason"], shown["license"], shown["revision"]) == ("unchecked", None, "mit", "abc")
    assert shown["quantization"] == "awq" and shown["trust_remote_code"] is True
    for name in ("tokens_per_second", "requests_per_second", "input_tokens_per_second", "load_seconds", "measured_at"):
        assert shown[name] is None, name
    assert shown["measurements"] == 0
    turn(one, requests=10, seconds=4.0, input_tokens=400, output_tokens=40)
    load(one, 3.21987)
    shown = model_object(one, set())
    assert (shown["tokens_per_second"], shown["input_tokens_per_second"]) == (10.0, 100.0)
    assert (shown["requests_per_second"], shown["load_seconds"], shown["measurements"]) == (2.5, 3.22, 1)
    assert shown["measured_at"] == int(NOW.timestamp())
    Measurement.objects.update(output_tokens=0)  # an embedding model
    assert model_object(one, set())["tokens_per_second"] == 100.0
    Model.objects.filter(pk=one.pk).update(state="failed", reason="no weights")
    one.refresh_from_db()
    shown = model_object(one, set(), for_operator=True)
    assert (shown["state"], shown["reason"]) == ("failed", "no weights")
    assert model_object(one, set())["reason"] == "It failed. The operators of this server see why."


def test_with_speeds_at_hand_a_list_of_models_asks_nothing_more(django_assert_num_queries):
    for n in range(5):
        turn(model(str(n)))
    models, found, availability = list(Model.objects.described()), speeds.all(), Availability()
    with django_assert_num_queries(0):
        shown = [model_object(one, set(), found[one.pk], availability=availability) for one in models]
    assert all(one["requests_per_second"] == 2.0 for one in shown)
