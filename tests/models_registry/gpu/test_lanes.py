"""Remote models run in lanes of their own, beside the local GPU and beside each other."""

import json
import threading
import time
import uuid
from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from batches.models import Batch, BatchRequest, RequestState
from batches.queue import pauses
from batches.run import claims
from batches.run.workload import BatchesWorkload
from models_registry.catalog import add
from models_registry.engine.remote import servers
from models_registry.gpu import health, lanes, operations
from models_registry.gpu.lanes import Lanes
from models_registry.gpu.operation_kinds import OperationsWorkload
from models_registry.models import Model, Worker
from tests.engines import fresh, line, status_of, until
from tests.models_registry.engine.started import scripted
from vbs.accounts.models import Project
from vbs.broker import wake
from vbs.database import outages


@pytest.fixture
def attended(gpu, monkeypatch):
    """The lanes of the GPU's worker, attended in a thread as in a worker's process."""
    monkeypatch.setattr(lanes, "SHOW_SECONDS", 0.1)
    made = Lanes(gpu.worker)
    gpu.ended = made.soon.set
    made.start()
    yield made
    outages.stopping.set()
    made.end()
    outages.stopping.clear()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


@pytest.fixture
def serving(gpu):
    """The GPU serves in a thread, from when this is called."""
    threads = []

    def serve():
        def run():
            try:
                gpu.serve()
            finally:
                connection.close()

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return threads[-1]

    yield serve
    outages.stopping.set()
    for thread in threads:
        thread.join(20)
    outages.stopping.clear()


def lines(model, count, text="hello"):
    return [line(f"{number}", f"{text} {number}", model) for number in range(count)]


def spans(*journals):
    """When the first and the last request came."""
    found = [[json.loads(one)["at"] for one in journal.read_text().splitlines()] for journal in journals]
    return [(min(times), max(times)) for times in found]


def test_a_lane_grows_while_its_server_keeps_up(add_model, submitted, attended, gpu):
    with scripted("--latency-ms", "150", "--max-num-seqs", "256", name="far") as (_, url):
        add.add("far", url)
        batch = submitted(lines("far", 900))
        wake("gpu")
        most = 0

        def ended():
            nonlocal most
            gpu.worker.refresh_from_db()
            most = max([most, *(address["limit"] for lane in gpu.worker.lanes for address in lane["addresses"])])
            return status_of(batch) == "finalizing"

        until(ended, 60)
        print("the largest limit", most)
        assert most > 100


def test_two_remote_lanes_run_beside_a_local_engine(add_model, submitted, attended, serving, close, tmp_path):
    journals = [tmp_path / name for name in ("one", "two", "here")]
    slow = ("--latency-ms", "100", "--max-num-seqs", "4")
    with (
        scripted(*slow, "--journal", str(journals[0]), name="one") as (_, one),
        scripted(*slow, "--journal", str(journals[1]), name="two") as (_, two),
    ):
        add.add("one", one)
        add.add("two", two)
        here = add_model("here", **{"latency-ms": 100, "max-num-seqs": 4, "journal": str(journals[2])})
        local = submitted(lines(here.name, 200))
        serving()
        until(lambda: fresh(local).completed)
        batches = [local, submitted(lines("one", 60)), submitted(lines("two", 60))]
        wake("gpu")
        until(lambda: all(status_of(batch) == "finalizing" for batch in batches), 60)
        assert [len(close(batch)[0]) for batch in batches] == [200, 60, 60]
    begun, ended = max(first for first, _ in spans(*journals)), min(last for _, last in spans(*journals))
    assert begun < ended, "all three at the same time"


def test_a_remote_lane_starts_while_the_gpu_is_in_a_long_turn(add_model, submitted, gpu, attended, serving, close):
    """It neither waits for the local engine nor takes its place, whatever its priority is."""
    add_model("here")
    long = submitted([line("a", "[[hang]]", "here")])
    serving()
    until(lambda: fresh(long).status == "in_progress")
    engine = gpu.resident.engine.pid
    with scripted() as (_, far):
        add.add("far", far)
        batch = submitted(lines("far", 20), priority=50)
        wake("gpu")
        until(lambda: status_of(batch) == "finalizing")
        assert len(close(batch)[0]) == 20
        test = operations.ask("test", Model.objects.get(name="far"), now=True)
        until(lambda: fresh_operation(test).state == "succeeded")
    assert gpu.resident.engine.pid == engine and gpu.resident.engine.alive()
    assert fresh(long).status == "in_progress" and fresh(long).leased_by == gpu.worker.pk
    assert not fresh(long).events.filter(message__contains="Interrupted").exists()


def fresh_operation(operation):
    return type(operation).objects.get(pk=operation.pk)


def test_a_hot_gpu_does_not_hold_remote_lanes_back(add_model, submitted, gpu, attended, serving, monkeypatch):
    monkeypatch.setattr(health, "why_wait", lambda *_, **__: "it is too hot")
    waits = submitted(lines(add_model("here").name, 1))
    serving()
    with scripted() as (_, far):
        add.add("far", far)
        batch = submitted(lines("far", 20))
        wake("gpu")
        until(lambda: status_of(batch) == "finalizing")
    assert fresh(waits).leased_by is None and fresh(waits).completed == 0


def test_a_batch_with_local_and_remote_models_runs_in_both_lanes(add_model, submitted, gpu, attended, serving, close):
    add_model("here")
    with scripted() as (_, far):
        add.add("far", far)
        mixed = [line(f"{n}", f"text {n}", "here" if n % 2 else "far") for n in range(40)]
        batch = submitted(mixed)
        wake("gpu")
        until(lambda: fresh(batch).completed == 20)
        serving()
        until(lambda: status_of(batch) == "finalizing")
        good, bad = close(batch)
    assert (len(good), bad) == (40, [])


def test_a_pause_and_a_stop_hold_for_lanes(submitted, attended, close):
    with scripted("--latency-ms", "200", "--max-num-seqs", "2") as (_, far):
        add.add("far", far)
        batch = submitted(lines("far", 100))
        wake("gpu")
        until(lambda: fresh(batch).completed > 2)
        pauses.pause("zoe", "for a while")
        until(lambda: fresh(batch).leased_by is None)
        assert batch.events.filter(message__contains="the queue is paused").exists()
        pauses.resume("zoe")
        wake("gpu")
        until(lambda: fresh(batch).leased_by)
        outages.stopping.set()
        until(lambda: fresh(batch).leased_by is None)
        done = fresh(batch)
        assert 0 < done.completed < 100 and done.failed == 0
        answered = BatchRequest.objects.filter(batch=batch, state=RequestState.COMPLETED).count()
        assert done.completed == answered


def test_an_error_of_the_gpu_does_not_take_the_leases_of_a_lane(add_model, submitted, gpu, lane, monkeypatch):
    add_model("here")
    Model.objects.create(name="far", kind="remote", source="http://127.0.0.1:9/v1")
    ours, theirs = submitted(lines("here", 1)), submitted(lines("far", 1))
    far = lane("far")
    far.held.add(theirs.pk)
    assert claims.claim(theirs.pk, gpu.worker.pk)

    def broken(self):
        raise OperationalError("the connection is lost")

    with monkeypatch.context() as patch:
        patch.setattr("batches.run.turn.Turn._run", broken)
        with pytest.raises(OperationalError):
            gpu.serve()
    assert fresh(ours).leased_by == gpu.worker.pk and gpu.held == {ours.pk}
    gpu.serve()
    assert fresh(ours).completed == 1 and fresh(theirs).leased_by == gpu.worker.pk
    far.release_held()
    assert fresh(theirs).leased_by is None


def test_what_the_lanes_do_is_in_the_worker_s_row(submitted, gpu, attended, monkeypatch):
    monkeypatch.setattr(lanes, "KEPT_SECONDS", 0.5)
    with scripted("--latency-ms", "100", "--max-num-seqs", "4") as (_, far):
        add.add("far", far, pool=["http://127.0.0.1:9/v1"])
        batch = submitted(lines("far", 100))
        wake("gpu")

        def seen():
            found = Worker.objects.get(pk=gpu.worker.pk).lanes
            return found[0] if found and found[0]["in_flight"] and found[0]["requests_per_second"] else None

        until(seen)
        shown = Worker.objects.get(pk=gpu.worker.pk).lanes[0]
        assert (shown["model"], shown["state"], shown["activity"]) == ("far", "running", "Running a batch on far")
        assert [one["state"] for one in shown["addresses"]] == ["open", "lost"]
        assert shown["addresses"][0]["url"] == far and shown["window"] >= shown["in_flight"] > 0
        until(lambda: status_of(batch) == "finalizing")
        until(lambda: Worker.objects.get(pk=gpu.worker.pk).lanes == [])


def test_a_lane_whose_server_fails_says_so_since_when_and_why(submitted, gpu, attended, monkeypatch):
    """Also when it has nothing to do any more, until the server is known to answer again."""
    monkeypatch.setattr(servers, "REACH_ATTEMPTS", 1)
    monkeypatch.setattr(lanes, "KEPT_SECONDS", 0.1)
    monkeypatch.setattr(lanes, "LOOK_SECONDS", 0.2)
    assert add.add("far", "http://127.0.0.1:9/v1").server_state == "unchecked"

    def shown():
        found = Worker.objects.get(pk=gpu.worker.pk).lanes
        return found[0] if found else {"state": ""}

    submitted(lines("far", 2))
    wake("gpu")
    until(lambda: shown()["state"] == "failed")
    time.sleep(3 * lanes.KEPT_SECONDS)
    lane = shown()
    assert (lane["model"], lane["state"], lane["addresses"]) == ("far", "failed", [])
    assert "cannot be reached" in lane["why"] and "127.0.0.1" not in lane["why"] and "127.0.0.1:9" in lane["detail"]
    assert lane["since"] == int(Model.objects.get().server_failed_at.timestamp())
    assert not Worker.objects.loaded()
    Model.objects.all().server_answers()
    until(lambda: shown()["state"] == "")


def test_a_lane_whose_servers_are_lost_while_it_runs_says_so(submitted, gpu, attended, monkeypatch):
    monkeypatch.setattr(lanes, "LOOK_SECONDS", 0.2)
    with scripted("--latency-ms", "100", "--max-num-seqs", "4") as (process, far):
        model = add.add("far", far)
        batch = submitted(lines("far", 400))
        wake("gpu")
        until(lambda: fresh(batch).completed)
        until(lambda: Model.objects.get(pk=model.pk).server_state == "ready")
        process.kill()
        until(lambda: Model.objects.get(pk=model.pk).server_state == "failed")
        until(lambda: Worker.objects.get(pk=gpu.worker.pk).lanes[0]["since"])
        lane = Worker.objects.get(pk=gpu.worker.pk).lanes[0]
        assert lane["state"] == "waiting" and "connection was lost" in lane["why"]
        assert far in Model.objects.get(pk=model.pk).server_failure
        assert far not in Model.objects.get(pk=model.pk).server_failure_public
        fresh(batch).request_cancel()


def test_only_the_eldest_worker_runs_lanes(submitted, gpu, attended):
    Worker.objects.create(cluster="gpu", hostname="other", pid=2, started_at=timezone.now() - timedelta(1))
    with scripted() as (_, far):
        add.add("far", far)
        batch = submitted(lines("far", 1))
        attended.look()
        assert attended.lanes == {} and fresh(batch).leased_by is None
        Worker.objects.filter(hostname="other").delete()
        attended.soon.set()
        until(lambda: status_of(batch) == "finalizing")


def test_a_lane_keeps_its_engine_while_its_servers_answer(gpu, lane):
    with scripted() as (_, far):
        model, one = add.add("far", far), lane("far")
        engine = one.load(model, print)
        assert one.load(model, print) is engine and one.serves(model) and one.loaded == "far"
        model = add.edit(model, on_server=False, pool=["http://127.0.0.1:9/v1"])
        assert not one.serves(model)
        assert one.load(model, print) is not engine
        assert gpu.loaded == "" and gpu.worker.model_name == ""


# What waits in which lane.


@pytest.fixture
def queue(db):
    project = Project.objects.create(name="p")
    for name, kind in (("here", "scripted"), ("far", "remote"), ("further", "remote")):
        Model.objects.create(name=name, kind=kind, source="" if kind == "scripted" else "http://127.0.0.1:9/v1")

    def make(names, count=1, waited=0, pending=(), **fields):
        """pending: indexes of its models that have requests left."""
        given = {"project": project, "endpoint": "/v1/chat/completions", "completion_window": "24h", "total": 2}
        since = timezone.now() - timedelta(minutes=waited)
        given |= {"model_names": names, "validated_at": since, "expires_at": since + timedelta(days=1)}
        made = Batch.objects.bulk_create(Batch(**given | fields) for _ in range(count))
        BatchRequest.objects.bulk_create(
            BatchRequest(
                batch=batch,
                line=index,
                custom_id=f"{index}",
                model_index=index,
                offset=0,
                length=1,
                prefix=uuid.UUID(int=0),
            )
            for batch in made
            for index in pending
        )
        return made[-1]

    return make


def waiting(lane):
    return [work.id for work in BatchesWorkload().waiting("", lane)]


def test_neither_kind_crowds_the_other_out(queue):
    queue(["far"], 300, waited=9)
    here = queue(["here"], waited=1)
    assert waiting("") == [here.pk]
    queue(["here"], 300, waited=20)
    further = queue(["further"], waited=1)
    assert waiting("further") == [further.pk]
    works = BatchesWorkload().waiting("", "far")
    assert len(works) >= 200 and {(work.lane, work.model) for work in works} == {("far", "far")}


def test_mixed_batches_wait_where_they_have_requests_left(queue):
    queue(["here", "far"], 250, waited=9, pending=[1])  # all that is left is remote
    both = queue(["here", "far"], waited=5, pending=[0, 1])
    here = queue(["here"], waited=1)
    assert waiting("") == [both.pk, here.pk]
    assert both.pk in {work.id for work in BatchesWorkload().waiting("", "far")} or len(waiting("far")) >= 200
    assert waiting("further") == []


def test_a_batch_that_has_started_waits_for_the_model_that_it_started_with(queue):
    started = {"status": "in_progress", "in_progress_at": timezone.now()}
    moved = queue(["@alias"], resolved=[{"asked": "@alias", "model": "far"}], **started)
    stays = queue(["far"], resolved=[{"asked": "far", "model": "here"}], **started)
    assert waiting("far") == [moved.pk] and waiting("") == [stays.pk]


def test_operations_wait_in_their_lane(queue):
    far, here = Model.objects.get(name="far"), Model.objects.get(name="here")
    ours, theirs = operations.ask("test", here), operations.ask("test", far)
    assert [work.id for work in OperationsWorkload().waiting("")] == [ours.pk]
    assert [(work.id, work.lane) for work in OperationsWorkload().waiting("", "far")] == [(theirs.pk, "far")]
    assert OperationsWorkload().waiting("", "further") == []
