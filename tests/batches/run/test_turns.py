"""Turns on the GPU: who shares a load, what a turn leaves behind as a measurement, and who waits for files."""

import threading
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone
from django_q.models import OrmQ

from batches.models import Batch, BatchStatus
from batches.run import claims, commit
from batches.run.turn import Turn
from batches.run.workload import BatchesWorkload
from models_registry.catalog import aliases
from models_registry.engine import server
from models_registry.engine.log_reasons import LoadError
from models_registry.gpu import health, operations
from models_registry.gpu.worker_process import look_for_work
from models_registry.models import Measurement, MeasurementKind, Model, ModelState, Worker
from models_registry.speed import measurements
from models_registry.workloads import Work
from tests.engines import fresh, line, status_of, until
from vbs.database import outages


def asked(model, count=3, text=""):
    return [line(f"{model} {n}", f"{text}{model} says {n}", model=model) for n in range(count)]


def answers(good):
    return {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in good}


def measured(kind, **of):
    return Measurement.objects.filter(kind=kind, **of)


def state_of(model, state, **fields):
    Model.objects.filter(pk=model.pk).update(state=state, **fields)


def test_three_queues_that_alternate_need_three_loads(add_model, submitted, gpu, close):
    models = {name: add_model(name) for name in "ABC"}
    batches = [(name, submitted(asked(name, 5, f"{turn} "))) for turn in range(3) for name in "ABC"]
    gpu.serve()
    for place, (name, batch) in enumerate(batches):
        good, bad = close(batch)
        assert not bad and answers(good) == {f"{name} {n}": f"{place // 3} {name} says {n}" for n in range(5)}
        assert {one["response"]["body"]["model"] for one in good} == {name}
    assert measured(MeasurementKind.LOAD).count() == 3
    assert {load.model for load in measured(MeasurementKind.LOAD)} == set(models.values())
    turns = measured(MeasurementKind.BATCH)
    assert sum(turn.requests for turn in turns) == 45 and {turn.model for turn in turns} == set(models.values())


def test_a_load_is_measured(add_model, submitted, gpu):
    model = add_model(**{"start-seconds": 0.5, "max-num-seqs": 7})
    batch = submitted([line("a")])
    gpu.serve()
    one = measured(MeasurementKind.LOAD).get()
    assert one.model == model and one.load_seconds > 0.5 and one.memory_bytes > 1e6
    assert one.predicted_bytes is None, "of a scripted model fit can say nothing"
    assert one.options["max-num-seqs"] == 7 and one.machine and "torch" in one.versions
    said = next(event.message for event in batch.events.all() if event.message.startswith("Loaded"))
    assert said == f"Loaded scripted in {one.load_seconds:.1f} s."


def test_a_turn_is_measured(add_model, submitted, gpu):
    add_model(**{"latency-ms": 50, "max-num-seqs": 2})
    batch = submitted([line(f"{n}", "three words here") for n in range(10)] + [line("bad", max_tokens=-1)])
    gpu.serve()
    one = measured(MeasurementKind.BATCH).get()
    assert (one.batch_id, one.endpoint) == (batch.pk, "/v1/chat/completions")
    assert (one.requests, one.failed, one.input_tokens, one.output_tokens) == (10, 1, 30, 30)
    assert 0.2 < one.seconds < 10, "10 requests of 50 ms each, two at a time"
    assert 0.05 <= one.latency_p50 <= one.latency_p99 <= one.seconds


def serving(gpu):
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    until(lambda: Worker.objects.filter(state="loading").exists())
    return thread


@pytest.mark.parametrize("of", ["batch", "operation"])
def test_a_load_goes_on_for_the_next_when_the_first_is_cancelled(add_model, submitted, gpu, close, monkeypatch, of):
    starts, start = [], server.start
    monkeypatch.setattr(server, "start", lambda spec, *more: starts.append(spec.name) or start(spec, *more))
    model = add_model(**{"start-seconds": 4})
    first = submitted(asked("scripted")) if of == "batch" else operations.ask("load", model, now=True)
    second = submitted(asked("scripted"))
    thread = serving(gpu)
    fresh(first).request_cancel() if of == "batch" else operations.cancel(first)
    if of == "batch":
        until(lambda: fresh(first).leased_by is None, seconds=3)
        good, bad = close(first)
        assert not good and {one["error"]["code"] for one in bad} == {"batch_cancelled"}
        assert fresh(first).status == BatchStatus.CANCELLED and not gpu.loaded
    thread.join(30)
    assert len(close(second)[0]) == 3 and second.attempts == 1
    assert starts == ["scripted"] and measured(MeasurementKind.LOAD).get().load_seconds > 4, "one load, and all of it"


def test_a_load_that_nobody_wants_any_more_ends(add_model, submitted, gpu):
    add_model(**{"start-seconds": 60})
    add_model("other")
    first, second, third = submitted(asked("scripted")), submitted(asked("scripted")), submitted(asked("other"))
    thread = serving(gpu)
    fresh(first).request_cancel()
    until(lambda: fresh(first).leased_by is None)
    fresh(second).request_cancel()
    thread.join(20)
    assert fresh(third).status == BatchStatus.FINALIZING and gpu.loaded == "other"


def test_a_load_that_is_not_needed_next_ends(add_model, submitted, gpu):
    add_model(**{"start-seconds": 60})
    add_model("urgent")
    first, second = submitted(asked("scripted")), submitted(asked("scripted"), priority=-1)
    thread = serving(gpu)
    urgent = submitted(asked("urgent"), priority=1)
    fresh(second).request_cancel()
    fresh(first).request_cancel()
    thread.join(20)
    assert fresh(urgent).status == BatchStatus.FINALIZING and gpu.loaded == "urgent"


def test_a_load_goes_on_while_the_database_is_away(add_model, submitted, gpu, close, monkeypatch):
    add_model(**{"start-seconds": 3})
    batch = submitted(asked("scripted"))
    whole, away = commit.commit_all, []

    def commits(*arguments, **options):
        if len(away) < 2 and gpu.worker.state == "loading":
            away.append(1)
            raise OperationalError("the server closed the connection")
        return whole(*arguments, **options)

    monkeypatch.setattr(commit, "commit_all", commits)
    gpu.serve()
    assert len(away) == 2 and len(close(batch)[0]) == 3 and measured(MeasurementKind.LOAD).count() == 1


def test_an_idle_worker_finds_what_a_frozen_one_has_left(add_model, submitted, make_gpu, monkeypatch):
    taken = []  # by the cluster of the frozen worker, one after each wake-up

    def swallow(seconds):
        taken.append([row.func() for row in OrmQ.objects.all()])
        OrmQ.objects.all().delete()

    monkeypatch.setattr(outages.stopping, "wait", swallow)
    add_model()
    batch, frozen, idle = submitted(asked("scripted")), make_gpu(), make_gpu()
    OrmQ.objects.all().delete()
    assert claims.claim(batch.pk, frozen.worker.pk)
    idle.worker.set(state="idle")
    look_for_work(idle)
    assert not OrmQ.objects.exists(), "it is in good hands"
    Batch.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    idle.worker.set(state="running")
    look_for_work(idle)
    assert not OrmQ.objects.exists(), "it has something to do"
    idle.worker.set(state="idle")
    look_for_work(idle)
    assert taken == [["models_registry.tasks.work"]] * 3, "two of them are lost"


def test_who_was_frozen_while_it_loaded_a_model_fails_no_batch_of_another(add_model, submitted, make_gpu):
    model = add_model()
    batch, frozen, other = submitted(asked("scripted")), make_gpu(), make_gpu()
    turn = Turn(Work(BatchesWorkload(), batch.pk, model.name, 0, batch.created_at), frozen)
    mine = turn._claim(turn.work)
    Batch.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    assert claims.claim(batch.pk, other.worker.pk)
    turn._cannot_load(model, LoadError("the engine was not ready after 1800 s"), [mine])
    found = fresh(batch)
    assert (found.status, found.leased_by, found.failed) == (BatchStatus.VALIDATING, other.worker.pk, 0)


def test_a_turn_that_was_interrupted_is_measured_and_so_is_the_rest(add_model, submitted, make_gpu):
    add_model(**{"max-num-seqs": 4, "latency-ms": 20})
    batch = submitted([line(f"{n}", f"{n}") for n in range(200)])
    first = make_gpu()
    thread = threading.Thread(target=lambda: (first.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(batch).completed > 5)
    outages.stopping.set()
    thread.join(10)
    done = fresh(batch).completed
    assert [one.requests for one in measured(MeasurementKind.BATCH)] == [done] and 5 < done < 200
    outages.stopping.clear()
    make_gpu().serve()
    assert sorted(one.requests for one in measured(MeasurementKind.BATCH)) == sorted([done, 200 - done])


def test_a_turn_in_which_nothing_was_answered_tells_nothing(add_model, submitted, gpu, settings):
    settings.VBS_REQUEST_ATTEMPTS = 1
    add_model()
    submitted([line("a", "[[status 500]]"), line("b", max_tokens=-1)])
    gpu.serve()
    assert not measured(MeasurementKind.BATCH).exists()


def test_an_adapters_turns_are_its_own_and_the_load_its_bases(add_model, submitted, gpu, tmp_path):
    from models_registry.catalog import add
    from tests.adapters import adapter_folder

    base = add_model("base")
    tuned = add.add("tuned", str(adapter_folder(tmp_path / "tuned")), base=base)
    submitted(asked("tuned"))
    gpu.serve()
    assert measured(MeasurementKind.BATCH).get().model == tuned
    assert measured(MeasurementKind.LOAD).get().model == base


@pytest.mark.parametrize("part", ["memory.used_by", "identity.name", "Measurement.objects.create"])
def test_what_cannot_be_measured_stops_nothing(add_model, submitted, gpu, close, monkeypatch, part):
    def fail(*_, **__):
        raise RuntimeError("no such sensor")

    monkeypatch.setattr(f"models_registry.speed.measurements.{part}", fail)
    add_model()
    batch = submitted([line("a")])
    gpu.serve()
    assert len(close(batch)[0]) == 1


def test_a_batch_waits_for_its_model_and_holds_up_nobody(add_model, submitted, gpu, close):
    late = add_model("late")
    add_model("here")
    waits = submitted(asked("late"), priority=5)
    goes = submitted(asked("here"))
    state_of(late, ModelState.DOWNLOADING)
    gpu.serve()
    assert status_of(waits) == BatchStatus.VALIDATING and fresh(waits).attempts == 0
    assert len(close(goes)[0]) == 3
    state_of(late, ModelState.READY)
    gpu.serve()
    assert len(close(waits)[0]) == 3


def test_many_that_wait_do_not_hide_the_one_that_can_run(add_model, submitted, gpu, project):
    state_of(add_model("late"), ModelState.DOWNLOADING)
    add_model("here")
    goes = submitted(asked("here"))
    first = fresh(goes)
    rows = [
        Batch(
            project=project,
            endpoint=first.endpoint,
            model_names=["late"],
            total=1,
            validated_at=first.created_at,
            expires_at=first.expires_at,
        )
        for _ in range(250)
    ]
    Batch.objects.bulk_create(rows)
    assert [work.id for work in BatchesWorkload().waiting("")] == [goes.pk]


def test_a_batch_of_several_models_waits_for_all_of_them(add_model, submitted, gpu, close):
    add_model("here")
    late = add_model("late")
    batch = submitted(asked("here") + asked("late"))
    state_of(late, ModelState.DOWNLOADING)
    gpu.serve()
    assert status_of(batch) == BatchStatus.VALIDATING and not gpu.loaded
    state_of(late, ModelState.READY)
    gpu.serve()
    assert len(close(batch)[0]) == 6


def test_aliases_and_adapters_wait_with_their_model(add_model, submitted, gpu):
    base = add_model("base")
    Model.objects.create(name="tuned", kind="scripted", base=base, source="/nowhere")
    aliases.point("@best", Model.objects.get(name="tuned"))
    batches = [submitted([line("a", model=name)]) for name in ("base", "tuned", "@best")]
    state_of(base, ModelState.DOWNLOADING)
    assert BatchesWorkload().waiting("") == []
    state_of(base, ModelState.READY)
    assert {work.id for work in BatchesWorkload().waiting("")} == {batch.pk for batch in batches}


def test_a_batch_that_has_started_waits_for_the_model_that_it_started_with(add_model, submitted, gpu):
    first, second = add_model("first"), add_model("second")
    aliases.point("best", first)
    batch = submitted(asked("best"))
    claimed = claims.claim(batch.pk, gpu.worker.pk)
    claimed.start(gpu.worker.pk, "best", first)
    claimed.release(gpu.worker.pk)
    aliases.point("best", second)
    state_of(second, ModelState.DOWNLOADING)
    assert [work.id for work in BatchesWorkload().waiting("")] == [batch.pk], "the alias has moved; the batch has not"
    state_of(second, ModelState.READY)
    state_of(first, ModelState.DOWNLOADING)
    assert BatchesWorkload().waiting("") == []


def test_a_batch_that_has_started_waits_for_its_other_model(add_model, submitted, gpu):
    here, late = add_model("here"), add_model("late")
    aliases.point("@late", late)
    batch = submitted(asked("here") + asked("@late"))
    claimed = claims.claim(batch.pk, gpu.worker.pk)
    claimed.start(gpu.worker.pk, "here", here)
    claimed.release(gpu.worker.pk)
    state_of(late, ModelState.DOWNLOADING)
    assert BatchesWorkload().waiting("here") == []


def test_a_model_that_goes_after_the_choice_is_waited_for(add_model, submitted, gpu):
    model = add_model()
    batch = submitted([line("a")])
    (work,) = BatchesWorkload().waiting("")
    state_of(model, ModelState.DOWNLOADING)
    work.source.run(work, gpu)
    assert status_of(batch) == BatchStatus.VALIDATING and fresh(batch).leased_by is None
    assert BatchesWorkload().waiting("") == []


@pytest.mark.parametrize("state, words", [("draft", "is a draft"), ("failed", "has failed: 'manage.py model show")])
def test_a_model_without_files_fails_the_batch_and_says_what_to_do(add_model, submitted, gpu, state, words):
    model = add_model()
    batch = submitted([line("a")])
    state_of(model, state, reason="no room")
    gpu.serve()
    assert status_of(batch) == BatchStatus.FAILED and not gpu.loaded
    message = batch.errors[0]["message"]
    assert words in message and "manage.py model fetch scripted" in message


def test_while_the_gpu_is_too_hot_nothing_new_begins_and_it_says_why(add_model, submitted, gpu, close, monkeypatch):
    celsius = [99]
    monkeypatch.setattr("models_registry.gpu.loop.HEALTH_SECONDS", 0.05)
    monkeypatch.setattr(health, "read", lambda: {"celsius": celsius[0]})
    monkeypatch.setattr(health, "why_wait", lambda reading, **_: "it is too hot" if reading["celsius"] > 90 else "")
    add_model()
    batch = submitted([line("a")])
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    until(lambda: Worker.objects.get().activity == "it is too hot")
    assert fresh(batch).attempts == 0 and Worker.objects.get().state == "idle"
    celsius[0] = 60
    thread.join(20)
    assert len(close(batch)[0]) == 1 and Worker.objects.get().activity == ""


def test_a_worker_that_waits_for_the_gpu_to_cool_can_stop(add_model, submitted, gpu, monkeypatch):
    monkeypatch.setattr(health, "why_wait", lambda reading, **_: "it is too hot")
    add_model()
    submitted([line("a")])
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    until(lambda: Worker.objects.get().activity)
    outages.stopping.set()
    thread.join(2)
    assert not thread.is_alive()


def test_old_measurements_make_room(add_model):
    model, other = add_model("one"), add_model("two")

    class Engine:
        class started:
            options: dict = {}

    for number in range(measurements.KEPT + 5):
        tally = measurements.Tally()
        tally.sent(0)
        tally.answered(0, True, number, 0)
        measurements.record_turn(model, Engine, tally, "batch_x", "/v1/embeddings")
    measurements.record_turn(other, Engine, tally, "batch_y", "/v1/embeddings")
    kept = measured(MeasurementKind.BATCH, model=model)
    assert kept.count() == measurements.KEPT and min(one.input_tokens for one in kept) == 5
    assert measured(MeasurementKind.BATCH, model=other).count() == 1
