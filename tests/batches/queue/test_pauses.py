"""A paused queue runs no batch: what runs stops and goes on later where it was; operations are run all the same."""

import json
import threading
import time

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction

from batches.models import Batch, BatchStatus, Pause
from batches.queue import pauses
from batches.run import engine_run
from batches.run.workload import BatchesWorkload
from models_registry.gpu import operations
from models_registry.models import OperationState, Worker
from tests.engines import fresh, line, sent, text_of, until


def serving(gpu):
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    return thread


def test_what_runs_stops_and_goes_on_where_it_was(add_model, submitted, gpu, close, home, monkeypatch):
    monkeypatch.setattr(engine_run, "LOOK_SECONDS", 0.2)
    add_model(journal=f"{home}/journal", **{"max-num-seqs": 4, "latency-ms": 20})
    batch = submitted([line(f"{n}", f"{n}") for n in range(300)])
    thread = serving(gpu)
    until(lambda: fresh(batch).completed > 5)
    pauses.pause("ada", "new disks")
    thread.join(10)
    assert not thread.is_alive(), "the worker is idle"
    left = fresh(batch)
    assert left.status == BatchStatus.IN_PROGRESS and left.leased_by is None and 5 < left.completed < 300
    assert left.events.last().message == "Interrupted: the queue is paused."
    gpu.serve()
    assert fresh(batch).completed == left.completed, "nothing is run meanwhile"
    assert pauses.resume("bob")
    gpu.serve()
    good, bad = close(batch)
    assert not bad and {one["custom_id"]: text_of(one) for one in good} == {f"{n}": f"{n}" for n in range(300)}
    assert batch.status == BatchStatus.COMPLETED and batch.attempts == 2
    assert len(sent(home / "journal")) == 300, "what was in flight had time to end"


def test_a_load_for_a_batch_is_given_up(add_model, submitted, gpu):
    add_model(**{"start-seconds": 60})
    batch = submitted([line("a")])
    thread = serving(gpu)
    until(lambda: fresh(batch).leased_by)
    pauses.pause("ada")
    thread.join(20)
    assert not thread.is_alive() and fresh(batch).leased_by is None and fresh(batch).status == BatchStatus.VALIDATING


def test_a_batch_that_was_chosen_just_before_does_not_start(add_model, submitted, gpu):
    add_model()
    batch = submitted([line("a")])
    (work,) = BatchesWorkload().waiting("")
    pauses.pause("ada")
    BatchesWorkload().run(work, gpu)
    assert fresh(batch).completed == 0 and fresh(batch).leased_by is None and not gpu.loaded


def test_operations_run_all_the_same(add_model, submitted, gpu):
    model = add_model()
    batch = submitted([line("a")])
    pauses.pause("ada")
    asked = operations.ask("test", model)
    gpu.serve()
    asked.refresh_from_db()
    assert asked.state == OperationState.SUCCEEDED and fresh(batch).completed == 0


def test_to_pause_twice_is_to_pause_once(db):
    first = pauses.pause("ada", "new disks")
    assert pauses.pause("bob", "other") == first == pauses.current()
    assert (first.asked_by, first.reason, first.ended_at) == ("ada", "new disks", None)
    assert pauses.resume("bob") and not pauses.resume("cyd")
    first.refresh_from_db()
    assert first.ended_by == "bob" and first.ended_at >= first.began_at and pauses.current() is None
    assert pauses.pause("ada") != first
    with pytest.raises(IntegrityError), transaction.atomic():
        Pause.objects.create()


def test_of_many_at_once_one_pauses(transactional_db):
    found, start = [], threading.Barrier(8)

    def ask(number):
        start.wait()
        found.append(pauses.pause(f"user {number}").pk)
        connection.close()

    threads = [threading.Thread(target=ask, args=[number]) for number in range(8)]
    [one.start() for one in threads]
    [one.join() for one in threads]
    assert len(found) == 8 and len(set(found)) == 1 and Pause.objects.count() == 1


def test_resuming_wakes_the_worker(db):
    from django_q.models import OrmQ

    pauses.resume("ada")
    assert not OrmQ.objects.exists()
    pauses.pause("ada")
    pauses.resume("ada")
    assert OrmQ.objects.count() == 1


def test_the_api_says_so(project, client, settings):
    settings.VBS_API_AUTH = "open"
    assert client.get("/v1/queue").json()["paused"] is None
    pauses.pause("ada", "new disks")
    shown = client.get("/v1/queue").json()["paused"]
    assert shown["reason"] == "new disks" and abs(shown["since"] - time.time()) < 60 and "ada" not in str(shown)


def test_by_command(add_model, submitted, capsys):
    model = add_model()
    asked = operations.ask("benchmark", model)
    low, high = submitted([line("a")], priority=-1), submitted([line("a")], priority=7)
    call_command("queue", "pause", "--reason", "new \x1b[31mdisks")
    assert "manage.py queue resume" in capsys.readouterr().out
    call_command("queue", "show")
    shown = capsys.readouterr().out
    assert "paused since" in shown and "new" in shown and "\x1b" not in shown
    assert shown.index(high.pk) < shown.index("benchmark of scripted") < shown.index(low.pk)
    call_command("queue", "show", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in found["waiting"]] == [high.pk, asked.pk, low.pk]
    assert [one["position"] for one in found["waiting"]] == [1, 2, 3] and found["paused"]["reason"]
    call_command("queue", "resume")
    call_command("queue", "resume")
    assert "batches run again\nthe queue was not paused" in capsys.readouterr().out
    call_command("queue", "priority", low.pk, "--", "-50")
    assert fresh(low).priority == -50 and "-1 → -50" in capsys.readouterr().out
    for wrong in (["priority", "nope", "1"], ["priority", low.pk, "101"], ["pause", "--reason", "x" * 501]):
        with pytest.raises(CommandError):
            call_command("queue", *wrong)
    Batch.objects.update(status=BatchStatus.COMPLETED)
    with pytest.raises(CommandError, match="completed"):
        call_command("queue", "priority", low.pk, "5")


def test_the_command_says_what_each_lane_does(queued, capsys):
    call_command("queue", "show")
    shown = capsys.readouterr().out
    assert "no GPU worker is running" in shown and "Nothing runs and nothing waits" in shown
    lane = {"model": "far", "state": "failed", "why": "it is away", "detail": "http://far is away", "activity": ""}
    lane |= {"since": time.time() - 120, "window": 0, "in_flight": 0, "requests_per_second": 0, "addresses": []}
    here = {"model": "near", "state": "running", "window": 16, "in_flight": 9, "requests_per_second": 2.5, "why": ""}
    here["addresses"] = [{"url": "http://near", "state": "held", "why": "it is busy"}]
    worker = Worker.objects.create(
        cluster="gpu", hostname="here", pid=1, state="loading", activity="Loading tiny: loading weights (50 %)",
        lanes=[lane, here],
    )  # fmt: skip
    Batch.objects.filter(pk=queued(("tiny", 1)).pk).update(validated_at=None)
    call_command("queue", "show")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split(maxsplit=1) == ["gpu", "loading tiny: loading weights (50 %)"]
    assert lines[2].split(maxsplit=1) == ["far", "failed 2 min ago: http://far is away"]
    did = "running, 9 of 16 in flight, 2.5 requests/s (http://near held: it is busy)"
    assert lines[3].split(maxsplit=1) == ["near", did]
    assert lines[4:] == ["1 batch is being validated"]
    call_command("queue", "show", "--json")
    found = json.loads(capsys.readouterr().out)
    states = [(one["model"], one["state"]) for one in found["lanes"]]
    assert states == [(None, "loading"), ("far", "failed"), ("near", "running")]
    assert found["validating_total"] == 1 and not found["waiting"]
    worker.set(state="idle", activity="", model_name="tiny", lanes=[])
    call_command("queue", "show")
    assert "idle, tiny is loaded" in capsys.readouterr().out
