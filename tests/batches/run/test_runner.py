"""Batches on the scripted engine: what goes right, and what goes wrong with single requests and models."""

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest
from django.db import connection

from batches.files import blobs
from batches.models import BatchStatus
from batches.run import engine_run
from models_registry.catalog import add
from models_registry.engine.client import Answer, Client
from models_registry.gpu import window
from models_registry.models import Measurement, MeasurementKind
from tests.engines import CHAT, fresh, line, sent, status_of, text_of, until
from vbs.openai import raw_json
from vbs.run.stack import free_port


def test_every_request_gets_its_own_answer(add_model, submitted, gpu, close):
    add_model(**{"max-num-seqs": 16})
    batch = submitted([line(f"id {n}", f"text {n}") for n in range(300)])
    gpu.serve()
    good, bad = close(batch)
    assert status_of(batch) == BatchStatus.COMPLETED and not bad
    assert {one["custom_id"]: text_of(one) for one in good} == {f"id {n}": f"text {n}" for n in range(300)}
    assert all(one["response"]["body"]["model"] == "scripted" and one["error"] is None for one in good)
    assert batch.output_tokens == sum(one["response"]["body"]["usage"]["completion_tokens"] for one in good) > 0
    stamps = [batch.created_at, batch.validated_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert stamps == sorted(stamps)


def test_what_only_the_server_may_set_does_not_reach_the_engine(add_model, submitted, gpu, close, monkeypatch):
    add_model()
    batch = submitted([line("a", priority=-9, cache_salt="mine", request_id="r", seed=1)])
    arrived = []

    async def answer(client, session, call):
        arrived.append(json.loads(call.body))
        return Answer(call.key, 200, b"{}")

    monkeypatch.setattr(Client, "_answer", answer)
    gpu.serve()
    assert [one.keys() for one in arrived] == [{"model", "messages", "seed"}]
    close(batch)


def test_numbers_arrive_as_they_were_sent_and_come_as_they_were_answered(add_model, submitted, gpu, close, monkeypatch):
    add_model()
    bodies = [
        '{"model": "scripted", "messages": [{"role": "user", "content": "\\u00e9"}], "seed": 18446744073709551616}',
        '{"messages":[{"role":"user","content":"x"}],"temperature":0.10,"top_p":1E-0,"n":1,"model":"scripted"}',
    ]
    lines = [
        f'{{"custom_id": "{n}", "method": "POST", "url": "{CHAT}", "body": {body}}}' for n, body in enumerate(bodies)
    ]
    batch = submitted("\n".join(lines).encode())
    arrived = []

    async def answer(client, session, call):
        arrived.append(call.body.decode())
        return Answer(call.key, 200, b'{"id": 18446744073709551616, "logprob": -0.10, "model": "it"}')

    monkeypatch.setattr(Client, "_answer", answer)
    gpu.serve()
    exact = {"parse_int": str, "parse_float": str}
    assert sorted(arrived) == sorted(raw_json.text_of(raw_json.members(body.encode())).decode() for body in bodies)
    assert any('"seed":18446744073709551616' in one for one in arrived)
    assert any('"temperature":0.10,"top_p":1E-0' in one for one in arrived)
    close(batch)
    with blobs.open_blob(batch.output_file.blob) as output:
        for one in output.read().splitlines():
            assert json.loads(one, **exact)["response"]["body"] == {
                "id": "18446744073709551616", "logprob": "-0.10", "model": "scripted",
            }  # fmt: skip


def test_a_line_that_the_engine_refuses_fails_alone(add_model, submitted, gpu, close):
    add_model()
    batch = submitted([line("good"), line("bad", max_tokens=-1)])
    gpu.serve()
    good, bad = close(batch)
    assert [one["custom_id"] for one in good] == ["good"]
    assert bad[0]["response"]["status_code"] == 400 and bad[0]["error"]["message"]
    assert bad[0]["response"]["body"]["error"]["message"]


def test_when_every_line_fails_the_batch_is_completed(add_model, submitted, gpu, close):
    add_model()
    batch = submitted([line("bad", max_tokens=-1)])
    gpu.serve()
    close(batch)
    assert (batch.status, batch.output_file) == (BatchStatus.COMPLETED, None) and batch.error_file


def test_what_fails_for_a_moment_is_tried_again(add_model, submitted, gpu, close, home):
    add_model()
    batch = submitted(
        [
            line("503", f"[[status-times 503 2 {home}/a]] one"),
            line("429", f"[[retry-after-times 0 2 {home}/b]] two"),
            line("drop", f"[[drop-times 2 {home}/c]] three"),
        ]
    )
    gpu.serve()
    good, bad = close(batch)
    assert len(good) == 3 and not bad


@pytest.mark.parametrize(
    "directive, code, status", [("[[status 500]]", None, 500), ("[[drop]]", "connection_lost", None)]
)
def test_what_keeps_failing_goes_to_the_error_file(add_model, submitted, gpu, close, settings, directive, code, status):
    settings.VBS_REQUEST_ATTEMPTS = 2
    add_model()
    batch = submitted([line("a"), line("b", directive)])
    gpu.serve()
    good, bad = close(batch)
    assert [one["custom_id"] for one in good] == ["a"]
    assert (bad[0]["response"] or {}).get("status_code") == status
    assert bad[0]["error"]["message"] and (code is None or bad[0]["error"]["code"] == code)


def test_garbage_is_not_passed_off_as_an_answer(add_model, submitted, gpu, close):
    add_model()
    batch = submitted([line("a", "[[garbage]]")])
    gpu.serve()
    assert close(batch)[1][0]["error"]["code"] == "invalid_response"


def test_a_request_without_end_is_given_up(add_model, submitted, gpu, close, settings):
    settings.VBS_REQUEST_SECONDS, settings.VBS_REQUEST_ATTEMPTS = 1, 1
    add_model()
    batch = submitted([line("a"), line("b", "[[hang]]")])
    gpu.serve()
    good, bad = close(batch)
    assert len(good) == 1 and bad[0]["error"]["code"] == "request_timeout" and bad[0]["response"] is None


def test_one_model_of_two_that_does_not_load_fails_only_its_lines(add_model, submitted, gpu, close):
    add_model("broken", **{"fail-start": "no"})
    add_model()
    batch = submitted([line("a", model="broken"), line("b"), line("c", model="broken")])
    gpu.serve()
    good, bad = close(batch)
    assert [one["custom_id"] for one in good] == ["b"]
    assert {one["error"]["code"] for one in bad} == {"model_load_failed"} and len(bad) == 2


def test_several_models_in_one_file_need_one_swap(add_model, submitted, gpu, close, home):
    add_model("one", journal=f"{home}/journal")
    add_model("two", journal=f"{home}/journal")
    batch = submitted([line(f"{n}", f"{n}", model=("one", "two")[n % 2]) for n in range(40)])
    gpu.serve()
    good, _bad = close(batch)
    assert {one["custom_id"]: one["response"]["body"]["model"] for one in good} == {
        f"{n}": ("one", "two")[n % 2] for n in range(40)
    }
    parity = [int(one) % 2 for one in sent(home / "journal")]
    assert sum(first != second for first, second in itertools.pairwise(parity)) == 1


def test_the_higher_priority_goes_first_and_overtakes(add_model, submitted, gpu, close):
    add_model(**{"max-num-seqs": 4, "latency-ms": 40})
    slow = submitted([line(f"{n}") for n in range(300)])
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(slow).completed > 5)
    low, high = submitted([line("low")], priority=-1), submitted([line("high")], priority=1)
    thread.join(60)
    for batch in (slow, low, high):
        close(batch)
        assert batch.status == BatchStatus.COMPLETED
    assert high.finalizing_at < low.in_progress_at and high.finalizing_at < slow.finalizing_at
    assert slow.attempts == 1, "it has stayed on the engine"
    assert not slow.events.filter(message__startswith="Interrupted").exists()


def test_what_is_outranked_in_its_last_window_ends_without_another_turn(add_model, submitted, gpu, close, monkeypatch):
    monkeypatch.setattr(engine_run, "LOOK_SECONDS", 0.1)
    add_model(**{"max-num-seqs": 4, "latency-ms": 1500})
    add_model("other")
    low = submitted([line(f"{n}") for n in range(4)])
    thread = threading.Thread(target=lambda: (gpu.serve(), connection.close()))
    thread.start()
    until(lambda: fresh(low).status == BatchStatus.IN_PROGRESS)
    high = submitted([line("high", model="other")], priority=1)
    thread.join(60)
    assert len(close(low)[0]) == 4 and low.attempts == 1 and len(close(high)[0]) == 1
    assert low.finalizing_at < high.in_progress_at
    assert not low.events.filter(message__startswith="Interrupted").exists()


def test_no_engine_is_started_for_nothing(add_model, submitted, gpu, close):
    model = add_model()
    batch = submitted([line("a", "[[crash]]")])
    gpu.serve()
    assert close(batch)[1][0]["error"]["code"] == "engine_crashed"
    loads = Measurement.objects.filter(kind=MeasurementKind.LOAD, model=model).count()
    assert loads == batch.events.filter(message__startswith="The engine died").count()


def test_no_more_run_at_once_than_connections_may_be_open(add_model, submitted, gpu, close, monkeypatch):
    monkeypatch.setattr("vbs.run.descriptors.left", lambda: window.SPARE + 3)
    add_model(**{"max-num-seqs": 16, "latency-ms": 20})
    batch = submitted([line(f"{n}") for n in range(30)])
    began = time.monotonic()
    gpu.serve()
    assert len(close(batch)[0]) == 30 and time.monotonic() - began > 10 * 0.02
    said = batch.events.get(message__contains="run at once")
    assert "At most 3 requests run at once, not 20" in said.message and "ulimit -n" in said.message


@pytest.mark.parametrize("least", [0, 65])
def test_the_engine_too_must_be_able_to_have_the_connections(add_model, gpu, least):
    engine = gpu.load(add_model(**{"max-num-seqs": 1024}), lambda doing: None)
    open_there = psutil.Process(engine.pid).num_fds()
    assert (window.in_flight(engine), window.shortfall(engine, 1280)) == (1280, "")
    psutil.Process(engine.pid).rlimit(psutil.RLIMIT_NOFILE, (open_there + least, 4096))
    assert window.in_flight(engine) == 1, "never none at all"
    assert "not 1,280" in window.shortfall(engine, 1)


def test_a_model_on_a_remote_server(project, submitted, gpu, lane, close):
    """Any OpenAI-compatible URL, with its key and its own name for the model; nothing is started or stopped here."""
    port = free_port()
    command = [sys.executable, "-m", "models_registry.engine.scripted.server", "--port", str(port)]
    environment = os.environ | {"VLLM_API_KEY": "its-key"}
    with subprocess.Popen([*command, "--served-model-name", "theirs"], env=environment) as server:
        try:
            until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
            add.add("ours", f"http://127.0.0.1:{port}/v1", remote_name="theirs", key="its-key")
            batch = submitted([line(f"{n}", f"text {n}", model="ours") for n in range(50)])
            gpu.serve()
            assert close(batch) == ([], []), "it is not for the GPU"
            lane("ours").serve()
            good, bad = close(batch)
            assert not bad and {one["response"]["body"]["model"] for one in good} == {"ours"}
            assert server.poll() is None
        finally:
            server.kill()
