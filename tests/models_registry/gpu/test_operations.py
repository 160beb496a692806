"""Operations on a GPU's worker: asked, run among the batches, followed, cancelled, and done again after a death."""

import json
import os
import signal
import threading
import time
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone
from django_q.models import OrmQ

from models_registry.catalog import add
from models_registry.catalog.folders import ModelError
from models_registry.engine.spec import EngineKind
from models_registry.gpu import control, operation_kinds, operations
from models_registry.gpu.operation_kinds import OperationsWorkload
from models_registry.gpu.worker_process import _enrol
from models_registry.models import Measurement, MeasurementKind, Model, Operation, OperationState, Worker
from models_registry.workloads import Work
from tests.adapters import adapter_folder
from tests.engines import in_thread, line, until
from vbs import __version__, upkeep
from vbs.database import outages

pytestmark = pytest.mark.django_db(transaction=True)


def fresh(operation):
    return Operation.objects.get(pk=operation.pk)


def done(gpu, kind, model, **options):
    """The operation, after the GPU has served."""
    operation = operations.ask(kind, model, options)
    gpu.serve()
    return fresh(operation)


def test_load_and_unload(add_model, gpu):
    model = add_model()
    loaded = done(gpu, "load", model)
    assert loaded.state == "succeeded" and gpu.loaded == "scripted", loaded.error
    assert loaded.result["seconds"] > 0 and loaded.result["memory_bytes"] > 1e6
    assert loaded.result["less"] == {} and loaded.result["woken"] is False
    assert "Loaded scripted in" in loaded.log and loaded.leased_by is None and loaded.finished_at
    again = done(gpu, "load", model)
    assert "loaded already" in again.log and again.result["seconds"] == 0
    assert Measurement.objects.filter(kind=MeasurementKind.LOAD).count() == 1
    unloaded = done(gpu, "unload", model)
    assert unloaded.state == "succeeded" and unloaded.result == {"unloaded": True} and not gpu.loaded
    gpu.serve()
    assert not gpu.loaded and gpu.worker.model_name == ""
    twice = done(gpu, "unload", model)
    assert twice.state == "succeeded" and "was not loaded" in twice.log


def test_each_line_of_the_log_has_the_time_of_day(add_model, gpu):
    lines = done(gpu, "load", add_model()).log.splitlines()
    assert len(lines) > 2
    for one in lines:
        time.strptime(one[:8], "%H:%M:%S")


def test_an_adapter_is_loaded_and_unloaded_alone(add_model, gpu, tmp_path):
    base = add_model("base")
    tuned = add.add("tuned", str(adapter_folder(tmp_path / "tuned")), base=base)
    assert done(gpu, "load", tuned).state == "succeeded"
    engine = gpu.resident.engine.pid
    assert gpu.worker.adapters == [tuned.served_name] and gpu.loaded == "base"
    answer = done(gpu, "test", tuned, prompt="hello")
    assert answer.result["answer"] == "hello (as tuned says it)" and answer.result["response"]["model"] == "tuned"
    assert done(gpu, "unload", tuned).result == {"unloaded": True}
    assert gpu.worker.adapters == [] and gpu.resident.engine.pid == engine and gpu.resident.engine.alive()
    assert done(gpu, "unload", tuned).result == {"unloaded": False}


def test_a_load_that_fails_says_why(add_model, gpu):
    model = add_model(**{"fail-start": "ValueError: the weights are odd"})
    operation = done(gpu, "load", model)
    assert operation.state == "failed" and "the weights are odd" in operation.error and operation.result is None
    assert "the weights are odd" in operation.log
    model = Model.objects.get()
    assert (model.state, model.shown_state) == ("ready", "failed") and "the weights are odd" in model.shown_reason
    assert add.edit(model, engine_args={}).shown_state == "unchecked", "it may do with other options"
    assert done(gpu, "load", model).state == "succeeded"
    model = Model.objects.get()
    assert (model.shown_state, model.shown_reason) == ("ready", "") and model.last_check
    assert add.edit(model, notes="n").shown_state == "ready"


def test_how_far_an_operation_is(add_model, gpu):
    """A load's phases and then the requests, and never less than before."""
    model, seen = add_model(**{"start-seconds": 3}), []
    renew = operations.renew

    def renewed(operation, worker, lines, **progress):
        seen.append((progress["percent"] or 0, progress["doing"]))
        worker_row = Worker.objects.get()
        if worker_row.state == "loading" and worker_row.activity != "Loading scripted":
            assert worker_row.loading_since and Worker.objects.loading() == {
                "scripted": worker_row.activity.partition(": ")[2]
            }
        return renew(operation, worker, lines, **progress)

    operations.renew = renewed
    try:
        assert done(gpu, "benchmark", model, requests=30).state == "succeeded"
    finally:
        operations.renew = renew
    assert seen == sorted(seen, key=lambda one: one[0]) and any(0 < percent <= 40 for percent, _ in seen), seen
    assert any(words.startswith("loading weights") for _, words in seen), seen
    assert Worker.objects.get().loading_since is None


@pytest.mark.parametrize("task", ["chat", "completion", "embedding", "score"])
def test_a_test_shows_request_and_answer(gpu, task):
    model = Model.objects.create(name="m", kind="scripted", task=task, engine_args={"task": task})
    operation = done(gpu, "test", model, prompt="one two\tthree é")
    assert operation.state == "succeeded", operation.error
    result = operation.result
    assert result["request"]["model"] == result["response"]["model"] == "m" and result["seconds"] > 0
    if task == "score":
        assert result["request"]["queries"] + result["request"]["documents"] == "one two\tthree é"
        assert [one["object"] for one in result["response"]["data"]] == ["score"] and result["answer"] is None
        return
    assert "one two\tthree é" in json.dumps(result["request"], ensure_ascii=False).replace("\\t", "\t")
    if task == "embedding":
        (one,) = result["response"]["data"]
        assert len(one["embedding"]) == one["dimensions"] == 8 and result["answer"] is None
    else:
        assert result["answer"] == "one two\tthree é"
    assert Model.objects.get().measurements.filter(kind="load").count() == 1, "it was loaded for it"


def test_a_long_vector_is_shortened():
    shown = operation_kinds._shown({"data": [{"embedding": [0.5] * 384, "text": "a\0b"}]})
    assert shown == {"data": [{"embedding": [0.5] * 8, "dimensions": 384, "text": "a\ufffdb"}]}


@pytest.mark.parametrize(
    "prompt, error",
    [("[[status 500]]", "500"), ("[[garbage]]", "not a JSON object"), ("[[drop]]", "lost"), ("[[crash]]", "died")],
)
def test_a_test_that_goes_wrong_says_how(add_model, gpu, settings, prompt, error):
    settings.VBS_REQUEST_ATTEMPTS = 1
    model = add_model()
    operation = done(gpu, "test", model, prompt=prompt)
    assert operation.state == "failed" and error in operation.error
    assert done(gpu, "test", model).state == "succeeded", "the next one is not concerned"


def test_an_answer_of_megabytes_is_not_kept(add_model, gpu):
    operation = done(gpu, "test", add_model(), prompt="[[bytes 3000000]]")
    assert operation.state == "failed" and "bytes" in operation.error


def test_a_benchmark(add_model, gpu, home):
    model = add_model(journal=f"{home}/journal", **{"latency-ms": 20, "max-num-seqs": 10})
    operation = done(gpu, "benchmark", model, requests=60, max_tokens=8, prompt_tokens=30)
    assert operation.state == "succeeded", operation.error
    result = operation.result
    assert (result["requests"], result["failed"]) == (60, 0)
    assert 60 * 4 < result["output_tokens"] < 60 * 8, "answers of 4 to 8 tokens"
    assert 60 * 30 <= result["input_tokens"] <= 60 * 33
    assert result["requests_per_second"] == pytest.approx(60 / result["seconds"])
    assert result["output_tokens_per_second"] == pytest.approx(result["output_tokens"] / result["seconds"])
    assert 0.02 <= result["latency_p50"] <= result["latency_p99"] <= result["seconds"]
    assert result["load_seconds"] < result["first_token_seconds"]
    one = Measurement.objects.get(kind=MeasurementKind.BENCHMARK)
    assert (one.requests, one.seconds, one.load_seconds) == (60, result["seconds"], result["load_seconds"])
    assert one.memory_bytes == pytest.approx(result["memory_bytes"], rel=0.5) and one.options["max-num-seqs"] == 10
    texts = [json.loads(each)["text"] for each in (home / "journal").read_text().splitlines()][1:]
    assert len(set(texts)) == len({text[:12] for text in texts}) == 60, "no two begin alike"
    again = done(gpu, "benchmark", model, requests=60, max_tokens=8, prompt_tokens=30)
    assert again.result["load_seconds"] is None and again.result["first_token_seconds"] is None, "it was loaded"
    later = [json.loads(each)["text"] for each in (home / "journal").read_text().splitlines()][62:]
    assert not set(texts) & set(later) and len(later) == 60, "what was cached for the first run helps no second one"
    words = [{tuple(text.split()[2:]) for text in run} for run in (texts, later)]
    assert words[0] == words[1], "but for their beginnings the prompts are those of the seed"


def test_a_cold_benchmark_loads_anew(add_model, gpu):
    model = add_model(**{"start-seconds": 0.4})
    done(gpu, "load", model)
    engine = gpu.resident.engine.pid
    result = done(gpu, "benchmark", model, requests=5, cold=True).result
    assert gpu.resident.engine.pid != engine and 0.4 < result["load_seconds"] < result["first_token_seconds"] < 20
    assert Measurement.objects.filter(kind=MeasurementKind.LOAD).count() == 2


def test_a_benchmark_of_an_embedding_model(gpu):
    model = Model.objects.create(name="m", kind="scripted", task="embedding", engine_args={"task": "embedding"})
    result = done(gpu, "benchmark", model, requests=20).result
    assert result["requests"] == 20 and result["output_tokens"] == 0 and result["input_tokens"] > 20 * 60


def test_a_benchmark_in_which_nothing_works_fails_and_is_not_kept(add_model, gpu, monkeypatch):
    monkeypatch.setattr("models_registry.gpu.benchmark.prompts", lambda *_: iter(["[[status 418]]"] * 3))
    operation = done(gpu, "benchmark", add_model(), requests=3)
    assert operation.state == "failed" and "418" in operation.error
    assert not Measurement.objects.filter(kind=MeasurementKind.BENCHMARK).exists()


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("sing", {}, "'sing' is not an operation"),
        ("load", {"prompt": "x"}, "no option 'prompt'"),
        ("test", {"prompt": ""}, "1 to 10,000 characters"),
        ("test", {"prompt": "x" * 10_001}, "1 to 10,000 characters"),
        ("test", {"prompt": "a\0b"}, "without NUL"),
        ("test", {"prompt": "\ud800"}, "prompt is"),
        ("test", {"max_tokens": 1025}, "max_tokens is 1025: it must be a whole number from 1 to 1,024"),
        ("test", {"max_tokens": True}, "max_tokens is True"),
        ("test", {"temperature": float("nan")}, "temperature is nan"),
        ("benchmark", {"requests": 0}, "requests is 0: it must be a whole number from 1 to 10,000"),
        ("benchmark", {"requests": "many"}, "requests is 'many'"),
        ("benchmark", {"cold": 1}, "cold is 1: it must be true or false"),
        ("benchmark", {"prompt_tokens": 60, "max_tokens": 50}, "110 together, but scripted takes at most 100"),
    ],
)
def test_what_cannot_be_asked(add_model, kind, options, message):
    model = add_model()
    Model.objects.update(context_length=100)
    model.refresh_from_db()
    with pytest.raises(ModelError, match=message):
        operations.ask(kind, model, options)
    assert not Operation.objects.exists() and not OrmQ.objects.exists()


def test_options_that_embeddings_do_not_have():
    model = Model.objects.create(name="m", kind="scripted", task="embedding")
    with pytest.raises(ModelError, match="no option 'max_tokens'"):
        operations.ask("test", model, {"max_tokens": 3})


def test_a_model_that_is_not_ready_is_refused_with_what_to_do(add_model):
    model = add_model()
    for state, words in (("draft", "fetch scripted"), ("downloading", "being fetched"), ("failed", "has failed")):
        Model.objects.update(state=state)
        with pytest.raises(ModelError, match=words):
            operations.ask("load", model)
        assert operations.cancel(operations.ask("unload", model)), "what is loaded can go all the same"
    adapter = Model.objects.create(name="tuned", kind="scripted", base=model)
    with pytest.raises(ModelError, match="scripted has failed"):
        operations.ask("benchmark", adapter)
    Model.objects.filter(name="tuned").delete()
    with pytest.raises(ModelError, match="not registered any more"):
        operations.ask("load", adapter)


def test_what_is_asked_twice_is_done_once(add_model):
    model = add_model()
    first = operations.ask("test", model)
    assert operations.ask("test", model, {"max_tokens": 64}, now=True) == first, "that is the default"
    assert fresh(first).priority == operations.AT_ONCE
    assert operations.ask("test", model).pk == first.pk and fresh(first).priority == operations.AT_ONCE
    assert operations.ask("test", model, {"prompt": "another"}) != first
    Operation.objects.filter(pk=first.pk).update(state=OperationState.RUNNING)
    assert operations.ask("test", model) != first, "one that runs has begun with what was there then"


def test_two_at_the_same_instant(add_model):
    model, found = add_model(), []

    def ask():
        found.append(operations.ask("load", model).pk)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 8 and len(set(found)) == Operation.objects.count() == 1


def test_the_queue_has_an_end(add_model, monkeypatch):
    monkeypatch.setattr(operations, "MOST_OPEN", 3)
    model = add_model()
    for number in range(3):
        operations.ask("test", model, {"prompt": str(number)})
    with pytest.raises(ModelError, match="3 operations wait already"):
        operations.ask("test", model, {"prompt": "one more"})


def test_asking_wakes_the_worker_in_the_same_transaction(add_model):
    operations.ask("load", add_model())
    assert [task.func().split(".")[-1] for task in OrmQ.objects.all()] == ["work"]


def test_order_among_batches(add_model, submitted, gpu):
    """By priority; of the same, what needs no swap first."""
    one, two = add_model("one"), add_model("two")
    done(gpu, "load", one)
    other, late = operations.ask("load", two), operations.ask("test", one)
    batch = submitted([line("a", model="two")], priority=1)
    first = gpu.next()
    assert first.id == batch.pk
    urgent = operations.ask("test", two, now=True)
    assert gpu.next().id == urgent.pk
    gpu.serve()
    times = [fresh(each).started_at for each in (urgent, other, late)]
    assert times[0] == min(times) and gpu.loaded == "one"


def test_now_interrupts_a_batch_which_goes_on_afterwards(add_model, submitted, gpu):
    add_model(**{"max-num-seqs": 4, "latency-ms": 30})
    other = add_model("other")
    batch = submitted([line(f"{n}") for n in range(500)])
    thread = in_thread(gpu)
    until(lambda: type(batch).objects.get(pk=batch.pk).completed > 3)
    operation = operations.ask("test", other, now=True)
    until(lambda: fresh(operation).state == "succeeded")
    batch.refresh_from_db()
    assert 3 < batch.completed < 500 and "Interrupted" in " ".join(event.message for event in batch.events.all())
    thread.join(60)
    batch.refresh_from_db()
    assert batch.completed == 500 and batch.attempts == 2


def test_a_benchmark_makes_room_and_begins_anew(add_model, gpu):
    model = add_model(**{"max-num-seqs": 1, "latency-ms": 100})
    benchmark = operations.ask("benchmark", model, {"requests": 60})
    thread = in_thread(gpu)
    until(lambda: "of 60 requests" in fresh(benchmark).log)
    urgent = operations.ask("test", model, now=True)
    until(lambda: fresh(urgent).state == "succeeded")
    assert fresh(benchmark).state in ("queued", "running") and "begins anew" in fresh(benchmark).log
    thread.join(60)
    assert fresh(benchmark).result["requests"] == 60 and fresh(benchmark).attempts == 1
    assert fresh(benchmark).finished_at > fresh(urgent).finished_at


def test_cancel_what_waits(add_model, gpu):
    operation = operations.ask("load", add_model())
    assert operations.cancel(operation) and operation.state == "cancelled" and operation.finished_at
    gpu.serve()
    assert not gpu.loaded and fresh(operation).log == ""
    assert not operations.cancel(operation), "it has ended"


@pytest.mark.parametrize("kind, options", [("load", {}), ("test", {"prompt": "[[hang]]"}), ("benchmark", {})])
def test_cancel_what_runs(add_model, gpu, kind, options):
    slow = {"start-seconds": 60} if kind == "load" else {"latency-ms": 30_000}
    operation = operations.ask(kind, add_model(**slow), options)
    thread = in_thread(gpu)
    until(lambda: fresh(operation).state == "running" and gpu.worker.activity)
    assert (gpu.worker.work_kind, gpu.worker.work_id) == ("operation", operation.pk)
    assert operation.pk not in gpu.worker.activity
    if kind != "load":
        until(lambda: "Loaded scripted" in fresh(operation).log)
    asked = time.monotonic()
    assert operations.cancel(fresh(operation))
    thread.join(20)
    assert time.monotonic() - asked < 5 and not thread.is_alive()
    ended = fresh(operation)
    assert ended.state == "cancelled" and ended.leased_by is None and "Stopped" in ended.log
    assert not Worker.objects.exclude(work_kind="", work_id="").exists()
    if kind == "load":
        assert not gpu.loaded, "the loading was aborted"


def test_a_worker_that_is_told_to_stop_leaves_it_to_the_next(add_model, make_gpu):
    model = add_model(**{"start-seconds": 60})
    operation = operations.ask("load", model)
    thread = in_thread(make_gpu())
    until(lambda: fresh(operation).state == "running")
    time.sleep(0.3)
    outages.stopping.set()
    thread.join(10)
    assert not thread.is_alive()
    assert (fresh(operation).state, fresh(operation).attempts, fresh(operation).leased_by) == ("queued", 0, None)
    outages.stopping.clear()
    Model.objects.update(engine_args={})
    make_gpu().serve()
    assert fresh(operation).state == "succeeded" and fresh(operation).attempts == 1


def test_what_a_dead_worker_held_is_done_again_three_times_at_most(add_model, gpu):
    operation = operations.ask("load", add_model())
    for attempt in range(1, operations.ATTEMPTS + 1):
        worker = Worker.objects.create(cluster="gpu", hostname="test", pid=attempt)
        assert operations.claim(operation.pk, worker.pk).attempts == attempt
        assert operations.claim(operation.pk, gpu.worker.pk) is None, "somebody has it"
        operations.release_all(worker.pk)
    assert fresh(operation).state == "failed" and "died 3 times" in fresh(operation).error
    gpu.serve()
    assert not gpu.loaded


def test_a_lease_that_has_run_out_is_taken_over_and_the_first_worker_changes_nothing(add_model, gpu):
    operation = operations.ask("load", add_model())
    lost = Worker.objects.create(cluster="gpu", hostname="elsewhere", pid=1)
    held = operations.claim(operation.pk, lost.pk)
    assert gpu.next() is None
    Operation.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    gpu.serve()
    assert fresh(operation).state == "succeeded" and fresh(operation).attempts == 2
    before = fresh(operation).log
    assert not operations.renew(held, lost.pk, "late\n")
    assert not operations.end(held, lost.pk, OperationState.FAILED, "late\n", error="late")
    operations.put_back(held, lost.pk, "late\n")
    assert (fresh(operation).state, fresh(operation).log, fresh(operation).error) == ("succeeded", before, "")


def test_while_it_runs_the_lease_is_kept(add_model, gpu, settings):
    settings.VBS_LEASE_SECONDS = 2
    operation = operations.ask("load", add_model(**{"start-seconds": 3.5}))
    thread = in_thread(gpu)
    until(lambda: fresh(operation).state == "running")
    while thread.is_alive():
        row = fresh(operation)
        assert row.state != "running" or row.leased_until > timezone.now()
        time.sleep(0.2)
    assert fresh(operation).state == "succeeded" and fresh(operation).attempts == 1


def test_the_sweep_gives_up_wakes_and_forgets(add_model, gpu):
    model = add_model()
    assert operations.sweep in upkeep.STEPS
    waits, killer, old = (operations.ask("test", model, {"prompt": name}) for name in "abc")
    past = timezone.now() - timedelta(days=90)
    Operation.objects.filter(pk=killer.pk).update(state="running", attempts=3, leased_by=gpu.worker.pk)
    Operation.objects.filter(pk=killer.pk).update(leased_until=timezone.now() - timedelta(seconds=1))
    Operation.objects.filter(pk=old.pk).update(state="succeeded", finished_at=past)
    OrmQ.objects.all().delete()
    assert operations.claim(killer.pk, gpu.worker.pk) is None, "it had its chances"
    operations.sweep()
    assert OrmQ.objects.count() == 1 and fresh(killer).state == "failed" and fresh(waits).state == "queued"
    assert not Operation.objects.filter(pk=old.pk).exists()


def test_a_log_without_end_keeps_its_end(add_model, gpu):
    operation = operations.claim(operations.ask("load", add_model()).pk, gpu.worker.pk)
    for number in range(30):
        operations.renew(operation, gpu.worker.pk, f"{number} {'x' * 1000}\n")
    log = fresh(operation).log
    assert len(log) == operations.MOST_LOG and log.endswith("x\n") and "\n29 x" in log and "\n5 x" not in log


def test_the_log_is_written_as_it_goes(add_model, gpu):
    operation = operations.ask("load", add_model(**{"start-seconds": 4}))
    thread = in_thread(gpu)
    until(lambda: "Loading weights" in fresh(operation).log)
    assert fresh(operation).state == "running"
    thread.join(20)


def test_an_unforeseen_error_fails_it_and_the_worker_goes_on(add_model, gpu, monkeypatch):
    monkeypatch.setitem(operation_kinds.KINDS, "load", lambda turn: 1 / 0)
    model = add_model()
    assert "ZeroDivisionError" in done(gpu, "load", model).error
    assert done(gpu, "test", model).state == "succeeded"


def test_a_database_that_goes_away_for_a_moment_loses_no_result(add_model, gpu, monkeypatch):
    real, calls = operations.end, []

    def end(*arguments):
        calls.append(arguments)
        if len(calls) < 3:
            raise OperationalError("the server is gone")
        return real(*arguments)

    monkeypatch.setattr(operations, "end", end)
    operation = done(gpu, "load", add_model())
    assert operation.state == "succeeded" and len(calls) == 3


def test_what_another_worker_has_loaded_is_its_own_to_unload(add_model, make_gpu):
    model = add_model()
    here, there = make_gpu(), make_gpu()
    done(there, "load", model)
    operation = operations.ask("unload", model)
    here.serve()
    assert fresh(operation).state == "queued"
    there.serve()
    assert fresh(operation).result == {"unloaded": True}


def test_unloading_needs_no_cool_gpu(add_model, gpu, monkeypatch):
    model = add_model()
    done(gpu, "load", model)
    monkeypatch.setattr("models_registry.gpu.health.why_wait", lambda *_, **__: "it is too hot")
    monkeypatch.setattr("models_registry.gpu.loop.HEALTH_SECONDS", 0.05)
    waits, goes = operations.ask("test", model), operations.ask("unload", model)
    thread = in_thread(gpu)
    until(lambda: fresh(goes).state == "succeeded")
    assert fresh(waits).state == "queued"
    until(lambda: Worker.objects.get().activity == "it is too hot")
    operations.cancel(waits)
    thread.join(10)


def test_a_remote_server_that_is_not_there(lane, monkeypatch):
    model = Model.objects.create(
        name="far", kind=EngineKind.REMOTE, source="http://127.0.0.1:9/v1", private_address=True
    )
    monkeypatch.setattr("models_registry.engine.remote.servers.REACH_ATTEMPTS", 1)
    operation = done(lane("far"), "load", model)
    assert operation.state == "failed" and "cannot be reached" in operation.error
    model.refresh_from_db()
    assert (model.state, model.shown_state) == ("ready", "failed") and "cannot be reached" in model.shown_reason


def test_the_source_says_what_it_needs(add_model):
    base = add_model("base")
    tuned = Model.objects.create(name="tuned", kind="scripted", base=base)
    operations.ask("load", tuned, now=True)
    operations.ask("unload", base)
    first, second = OperationsWorkload().waiting("base")
    assert (first.model, first.priority, first.frees) == ("base", 101, False)
    assert (second.model, second.priority, second.frees) == ("base", 0, True)


def test_what_an_engine_that_died_idle_has_left_is_ended(add_model, gpu):
    """Its children may hold the memory: the worker is woken, and ends them before anything else is asked for."""
    done(gpu, "load", add_model())
    pid = gpu.resident.engine.pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: not gpu.resident.engine.alive())
    gpu.serve()
    assert gpu.resident.engine is None and gpu.worker.model_name == ""
    assert not list(gpu.resident.home.glob("engine.json"))


def test_of_two_workers_with_the_same_model_the_one_that_was_meant_restarts_its_engine(add_model, make_gpu):
    model, first, second = add_model(), make_gpu(), make_gpu()
    done(first, "load", model)
    done(second, "load", model)
    kept, old = first.resident.engine.pid, second.resident.engine.pid
    load = control.restart_engine(second.worker, "ada")
    first.serve()
    load.refresh_from_db()
    assert load.state == "queued" and first.resident.engine.pid == kept
    batch = Work(None, "", "", 0, timezone.now())
    assert second.outranked(batch) and not first.outranked(batch)
    second.serve()
    load.refresh_from_db()
    assert load.state == "succeeded" and first.resident.engine.alive()
    assert second.resident.engine.pid != old and second.loaded == "scripted"


def test_what_was_for_a_worker_that_has_ended_ends_with_it(add_model, make_gpu):
    model, gone, other = add_model(), make_gpu(), make_gpu()
    named, any_ = operations.ask("unload", model, worker=gone.worker.pk), operations.ask("unload", model)
    assert named != any_
    operations.sweep()
    named.refresh_from_db()
    assert named.state == "queued"
    Worker.objects.filter(pk=gone.worker.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=1))
    assert operations.claim(named.pk, other.worker.pk) is None
    operations.sweep()
    named.refresh_from_db(), any_.refresh_from_db()
    assert (named.state, any_.state) == ("failed", "queued") and "gives no sign of life" in named.error


def test_a_worker_says_which_version_it_runs(transactional_db):
    assert _enrol("io").version == __version__
