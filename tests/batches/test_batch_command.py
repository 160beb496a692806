"""`manage.py batch`, its client of the API, and its words: against a running system, and against servers that lie."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from io import StringIO

import httpx2
import pytest
from django.core.management import CommandError, call_command
from django.core.management.base import OutputWrapper

from batches.cli import report
from batches.cli.remote import Batches
from batches.cli.watch import watch
from batches.management.commands.batch import first_url
from tests.live import Live, line, live
from vbs.cli.remote import RemoteError
from vbs.cli.terminal import JsonLines, aligned
from vbs.cli.whole_file import NotAFile, whole_file
from vbs.run.stack import BASE_DIR, free_port

STEERING = "\x1b[31m\x9b2J\u202e\x7f"


# The client


def remote(answer, key="k", url="http://vbs.example/v1/"):
    return Batches(url, key, transport=httpx2.MockTransport(answer))


def error_body(message):
    return {"error": {"message": message, "type": "t", "param": None, "code": None}}


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (httpx2.Response(404, json=error_body("No such batch: 'x'.")), 404, "No such batch: 'x'."),
        (httpx2.Response(502, text="<h1>Bad gateway</h1>"), 502, "answered 502 Bad Gateway: <h1>Bad"),
        (httpx2.Response(500, json={"error": "odd"}), 500, "answered 500"),
        (httpx2.Response(302, headers={"location": "http://elsewhere"}), 302, "answered 302"),
        (httpx2.Response(200, text="<html>"), 200, "does not answer as a vbs server"),
        (httpx2.Response(200, json={"object": "list"}), 200, "does not answer as a vbs server"),
        (httpx2.Response(200, json=[]), 200, "does not answer as a vbs server"),
        (httpx2.ConnectError("refused"), None, "http://vbs.example gave no whole answer: refused"),
        (httpx2.ReadTimeout(""), None, "ReadTimeout"),
    ],
)
def test_every_refusal_is_one_exception(answer, status, message):
    def respond(request):
        if isinstance(answer, Exception):
            raise answer
        return answer

    with remote(respond) as server, pytest.raises(RemoteError) as raised:
        server.retrieve("x")
    assert raised.value.status == status
    assert message in str(raised.value)
    assert raised.value.passing == (status in (None, 500, 502))


def test_what_is_asked():
    asked = []

    def respond(request):
        asked.append((request.method, str(request.url), request.headers["authorization"]))
        return httpx2.Response(200, json={"object": "batch", "id": "b"})

    with remote(respond, url="https://vbs.example/below") as server:
        server.retrieve("../v1/files?x")
        server.cancel("batch_1")
    assert asked == [
        ("GET", "https://vbs.example/below/v1/batches/..%2Fv1%2Ffiles%3Fx", "Bearer k"),
        ("POST", "https://vbs.example/below/v1/batches/batch_1/cancel", "Bearer k"),
    ]


def test_lists_are_followed_and_end():
    def respond(request):
        after = int(request.url.params.get("after", "0"))
        ids = [{"id": str(after + number + 1)} for number in range(int(request.url.params["limit"]))]
        return httpx2.Response(200, json={"object": "list", "data": ids, "last_id": ids[-1]["id"], "has_more": True})

    with remote(respond) as server:
        assert [one["id"] for one in server.batches(230)] == [str(number) for number in range(1, 231)]
    empty = {"object": "list", "data": [], "last_id": None, "has_more": True}
    with remote(lambda request: httpx2.Response(200, json=empty)) as server:
        assert list(server.batches(5)) == []


@pytest.mark.parametrize("url", ["vbs.example", "ftp://vbs.example", "http://", "http://h:99999", "file:///etc/passwd"])
def test_addresses_that_are_none(url):
    with pytest.raises(RemoteError, match="is no address of a server"):
        Batches(url)


def test_keys_that_are_none():
    with pytest.raises(RemoteError, match="no key has"):
        Batches("http://h", "sk-vbs-\n")


def test_a_large_file_goes_up_in_pieces(tmp_path):
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"x" * 30_000_000)
    sizes = []

    class Pieces(httpx2.BaseTransport):
        def handle_request(self, request):
            sizes.extend(len(piece) for piece in request.stream)
            return httpx2.Response(200, json={"object": "batch"})

    with Batches("http://vbs.example", transport=Pieces()) as server:
        server.submit(path, metadata={"a": "b"})
        assert sum(sizes) > 30_000_000
        assert max(sizes) < 100_000
        with pytest.raises(RemoteError, match="metadata key"):
            server.submit(path, metadata={'"': "b"})


# Words and files


def a_batch(**changes):
    batch = {
        "id": "batch_1",
        "status": "in_progress",
        "model": "m",
        "created_at": 100,
        "in_progress_at": 110,
        "finalizing_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "queue_position": 0,
        "request_counts": {"total": 10, "completed": 4, "failed": 1},
        "progress": {"percent": 50.0, "tokens_per_second": 50.0, "requests_per_second": 2.5, "eta_seconds": 2},
        "usage": {"input_tokens": 10, "output_tokens": 200},
        "errors": None,
        "output_file_id": None,
        "error_file_id": None,
    }
    return batch | changes


def a_queue(*workers):
    return {"workers": [{"alive": True, "cluster": "gpu", "state": "idle", "activity": ""} | one for one in workers]}


LOADING = {"state": "loading", "activity": "Loading m: loading weights (40 %)"}
OURS = LOADING | {"work_id": "batch_1"}


@pytest.mark.parametrize(
    ("batch", "queue", "words"),
    [
        ({"status": "validating", "queue_position": None}, a_queue({"cluster": "io"}), "validating"),
        ({"status": "validating", "queue_position": None}, a_queue(), "validating, but no io worker is there"),
        ({"status": "validating", "queue_position": 3}, a_queue({}), "waiting, number 3 in the queue"),
        ({"status": "in_progress", "queue_position": 1}, a_queue({"alive": False}), "but no gpu worker is there"),
        ({"status": "validating"}, a_queue({}), "starting"),
        ({"status": "validating"}, a_queue(LOADING), "loading m: loading weights (40 %)"),
        ({"status": "validating"}, a_queue(LOADING | {"activity": "Loading x"}, OURS), "loading m: loading"),
        ({"status": "validating"}, a_queue(LOADING | {"alive": False}), "starting"),
        ({}, None, "running"),
        ({}, a_queue(LOADING), "loading m"),
        ({"status": "finalizing", "queue_position": None}, None, "writing the files"),
        ({"status": "cancelling", "queue_position": None}, None, "cancelling"),
    ],
)
def test_what_happens_in_words(batch, queue, words):
    assert words in report.doing(a_batch(**batch), queue)


@pytest.mark.parametrize(
    ("rate", "end", "seconds"),
    [
        (1.25, 114, 4.0),
        (1.5, 114, 3.3),
        (12.0, 114, 3),
        (0.1, 114, 5),
        (None, 114, 4),
        (0.1, 210, 100),
        (0.1, None, None),
    ],
)
def test_a_short_run_is_timed_by_its_rate(rate, end, seconds):
    batch = a_batch(finalizing_at=end)
    batch["progress"] = batch["progress"] | {"requests_per_second": rate}
    measured = report.running_seconds(batch)
    assert measured == (None if seconds is None else pytest.approx(seconds, abs=0.1))


def test_no_text_of_strangers_steers_a_terminal():
    table = aligned([["a" + STEERING, "b\nc"], ["longer", "d"]])
    assert all(character.isprintable() for character in table.replace("\n", ""))
    assert len(table.splitlines()) == 2
    errors = [{"line": 3, "code": STEERING, "param": None, "message": f"[bold]{STEERING}[/bold]\n"}] * 25
    shown = report.error_table(errors)
    assert "[bold]" in shown
    assert "… and 5 more" in shown
    assert all(character.isprintable() for character in shown.replace("\n", ""))

    class Terminal(StringIO):
        def isatty(self):
            return True

    terminal, text = Terminal(), json.dumps({"é": STEERING}, ensure_ascii=False).replace("\\u001b", "\x1b").encode()
    sink = JsonLines(OutputWrapper(terminal))
    for number in range(len(text)):
        sink.write(text[number : number + 1])
    assert json.loads(terminal.getvalue()) == {"é": STEERING}
    assert terminal.getvalue().isprintable()

    pipe = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    JsonLines(OutputWrapper(pipe)).write(text)
    assert pipe.buffer.getvalue() == text


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with whole_file(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    with pytest.raises(NotAFile), whole_file(tmp_path):
        pass


@pytest.mark.parametrize(
    ("content", "url"),
    [(b'\n{"url": "/v1/embeddings"}\n{"url": "/x"}', "/v1/embeddings"), (b"{", ""), (b"[]", ""), (b'{"url": 1}', "")],
)
def test_the_endpoint_is_that_of_the_first_line(tmp_path, content, url):
    path = tmp_path / "in"
    path.write_bytes(content)
    assert first_url(path) == url


# Watching


class Script:
    """A server whose answers are given: batches, queues, and exceptions to raise."""

    def __init__(self, *answers, queue=None):
        self.answers, self.shown_queue = list(answers), queue or a_queue()

    def retrieve(self, batch_id):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def queue(self):
        return self.shown_queue


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr("batches.cli.watch.POLL_SECONDS", 0.01)


def test_a_restart_of_the_server_is_waited_for(fast, monkeypatch):
    monkeypatch.setattr("batches.cli.watch.LINE_SECONDS", 0)
    out = StringIO()
    done = a_batch(status="completed")
    server = Script(a_batch(), RemoteError("refused"), RemoteError("bad gateway", 502), a_batch(), done)
    assert watch(server, a_batch(), out).batch == done
    assert "trying again" in out.getvalue()
    with pytest.raises(RemoteError, match="key"):
        watch(Script(RemoteError("key", 401)), a_batch(), out)
    monkeypatch.setattr("batches.cli.watch.PATIENCE_SECONDS", 0.05)
    with pytest.raises(RemoteError, match="refused"):
        watch(Script(*[RemoteError("refused")] * 100), a_batch(), out)


def test_plain_lines_are_few(fast):
    out = StringIO()
    counts = [{"total": 50, "completed": number, "failed": 0} for number in range(50)]
    watch(Script(*[a_batch(request_counts=one) for one in counts], a_batch(status="failed")), a_batch(), out)
    assert out.getvalue() == "running, 0/50, 2.5 requests/s, 50 tokens/s, 2 s left\n"


def test_loading_is_timed(fast):
    waiting = a_batch(status="validating", queue_position=4)
    held = a_batch(status="validating")
    answers = [waiting] * 5 + [held] * 5 + [a_batch()] * 5 + [a_batch(status="completed")]
    queue = a_queue(LOADING)
    queue["workers"][0]["activity"] = f"Loading {STEERING}"
    assert 0.1 > watch(Script(*answers[:11], answers[-1], queue=queue), waiting, StringIO()).loading_seconds > 0.04
    assert watch(Script(*answers, queue=a_queue({})), waiting, StringIO()).loading_seconds == 0


# The command, against a running system


@pytest.fixture(scope="module")
def vbs():
    with live() as running:
        running.add_scripted(**{"max-num-seqs": 32})
        running.add_scripted("slow", **{"max-num-seqs": 2, "latency-ms": 300})
        running.add_scripted("loads", **{"max-num-seqs": 2, "latency-ms": 300, "start-seconds": 2})
        running.add_scripted("broken", **{"fail-start": "CUDA_out_of_memory:_no_room"})
        yield running


def batch(vbs, *words):
    """Standard output of the command, run in this process: no database is at hand, so it uses none."""
    out = StringIO()
    call_command("batch", *map(str, words), "--url", vbs.url, "--key", vbs.key, stdout=out, stderr=StringIO())
    return out.getvalue()


def file_of(tmp_path, *lines):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def command(vbs, *words, **options):
    """The command as a process of its own, which makes its own key."""
    line = [sys.executable, str(BASE_DIR / "manage.py"), "batch", *map(str, words)]
    return subprocess.Popen(line, env=vbs.stack.environment, text=True, start_new_session=True, **options)


def test_submit_show_list_results_logs(vbs, tmp_path, capfd):
    path = file_of(tmp_path, line("a", "one"), line("b", "two"))
    said = batch(vbs, "submit", path, "--wait", "--metadata", "x=1", 'y=a "quoted" value', "--priority", 5)
    batch_id = said.split()[0]
    assert "2 completed, 0 failed" in said
    assert capfd.readouterr().err.startswith(("validating", "waiting", "starting", "loading", "running", "finalizing"))

    shown = json.loads(batch(vbs, "show", batch_id, "--json"))
    assert (shown["status"], shown["priority"]) == ("completed", 5)
    assert shown["metadata"] == {"x": "1", "y": 'a "quoted" value'}
    assert shown["output_file_id"] in batch(vbs, "show", batch_id, "--wait")
    assert batch_id in batch(vbs, "list", "--limit", 1)
    assert json.loads(batch(vbs, "list", "--json"))[0]["id"] == batch_id

    results = batch(vbs, "results", batch_id)
    assert {json.loads(one)["custom_id"] for one in results.splitlines()} == {"a", "b"}
    batch(vbs, "results", batch_id, "--out", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == results
    assert batch(vbs, "results", batch_id, "--errors") == ""
    assert "Completed: 2 completed" in batch(vbs, "logs", batch_id)
    with pytest.raises(CommandError, match="Cannot cancel a batch with status 'completed'"):
        batch(vbs, "cancel", batch_id)
    with pytest.raises(CommandError, match="nothing to retry"):
        batch(vbs, "retry", batch_id)


def test_failed_requests_and_their_retry(vbs, tmp_path):
    path = file_of(tmp_path, line("good"), line("bad", "[[status 400]]"))
    with pytest.raises(
        CommandError, match=r"is completed; 1 of 2 requests failed: 'manage.py batch results .* --errors"
    ):
        batch(vbs, "submit", path, "--wait")
    batch_id = json.loads(batch(vbs, "list", "--json", "--limit", 1))[0]["id"]
    assert [json.loads(one)["custom_id"] for one in batch(vbs, "results", batch_id, "--errors").splitlines()] == ["bad"]
    with pytest.raises(CommandError, match="1 of 1 requests failed"):
        batch(vbs, "retry", batch_id, "--wait")


def test_refused_lines_are_a_table(vbs, tmp_path):
    good, bad = line("ok"), line(f"x{STEERING}") | {"method": f"GET{STEERING}"}
    out = StringIO()
    with pytest.raises(CommandError, match=r"is failed$"):
        call_command(
            *("batch", "submit", str(file_of(tmp_path, good, bad, good)), "--wait", "--url", vbs.url, "--key", vbs.key),
            stdout=out,
        )
    shown = out.getvalue()
    assert "line  code" in shown
    assert any(row.split()[:3] == ["2", "invalid_method", "method"] for row in shown.splitlines())
    assert any(row.split()[:2] == ["3", "duplicate_custom_id"] for row in shown.splitlines())
    assert all(character.isprintable() for character in shown.replace("\n", ""))


def test_a_model_that_does_not_load(vbs, tmp_path):
    out = StringIO()
    words = ["submit", str(file_of(tmp_path, line("a", model="broken"))), "--wait", "--url", vbs.url, "--key", vbs.key]
    with pytest.raises(CommandError, match="is failed"):
        call_command("batch", *words, stdout=out)
    assert "CUDA_out_of_memory" in out.getvalue()


def test_the_model_for_lines_that_name_none(vbs, tmp_path):
    request = line("a")
    del request["body"]["model"]
    assert "1 completed" in batch(vbs, "submit", file_of(tmp_path, request), "--model", "scripted", "--wait")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["submit", "/no/such/file"], "There is no file '/no/such/file'"),
        (["submit", __file__, "--metadata", "x"], "--metadata has 'x'"),
        (["submit", __file__], "Invalid file format"),
        (["submit", __file__, "--endpoint", "/v1/x"], "Supported values are"),
        (["submit", __file__, "--priority", "101"], "100"),
        (["show", "batch_none"], "No batch found with id 'batch_none'"),
        (["results", "../files"], "No batch found|Unknown route"),
        (["list", "--limit", "0"], "--limit is 0"),
        (["list", "--project", "x"], "--project is for this server"),
        (["results", "x", "--out", "/dev/null"], "No batch found"),
    ],
)
def test_refusals_are_one_line(vbs, words, message):
    with pytest.raises(CommandError, match=message) as error:
        batch(vbs, *words)
    assert "\n" not in str(error.value)


def test_a_wrong_key_and_a_wrong_address(vbs):
    with pytest.raises(CommandError, match="Incorrect API key"):
        call_command("batch", "list", "--url", vbs.url, "--key", "sk-vbs-wrong")
    with pytest.raises(CommandError, match="gave no whole answer"):
        call_command("batch", "list", "--url", f"http://127.0.0.1:{free_port()}")


def test_no_server_is_one_line(settings):
    settings.VBS_PORT = free_port()
    with pytest.raises(CommandError, match=rf"No vbs answers at http://127.0.0.1:{settings.VBS_PORT}: start it with"):
        call_command("batch", "list")


def keys(vbs: Live):
    """Name and whether it is revoked, of all keys that the command made."""
    code = (
        "from vbs.accounts.models import ApiKey\n"
        "for key in ApiKey.objects.filter(name='manage.py batch'): print('key', bool(key.revoked_at))"
    )
    return [one for one in vbs.manage("shell", "--verbosity=0", "-c", code).splitlines() if one.startswith("key ")]


def test_ctrl_c_leaves_the_batch_and_no_key(vbs, tmp_path):
    """As a process of its own: its key is made in the database, works, and is gone; the output is that of a pipe."""
    path = file_of(tmp_path, *[line(f"r{number}", model="slow") for number in range(400)])
    process = command(vbs, "submit", path, "--wait", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    batch_id = process.stdout.readline().strip()
    assert process.stderr.readline()
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert f"'manage.py batch show {batch_id} --wait' comes back to it" in said
    assert "Traceback" not in said

    show = command(vbs, "show", batch_id, "--json", stdout=subprocess.PIPE)
    assert json.loads(show.communicate(timeout=60)[0])["status"] in ("validating", "in_progress")
    cancel = command(vbs, "cancel", batch_id, stdout=subprocess.PIPE)
    assert cancel.communicate(timeout=60)[0].strip() in ("cancelling", "cancelled")
    stranger = command(vbs, "list", "--project", "nobody", stderr=subprocess.PIPE)
    assert "There is no project 'nobody'" in stranger.communicate(timeout=60)[1]
    assert keys(vbs) == []


def test_a_live_bar_on_a_terminal(vbs, tmp_path):
    path = file_of(tmp_path, *[line(f"r{number}", model="loads") for number in range(12)])
    ours, theirs = pty.openpty()
    process = command(vbs, "submit", path, "--wait", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""

    def read():
        nonlocal seen
        try:
            while piece := os.read(ours, 4096):
                seen += piece
        except OSError:  # nobody has the other end any more
            pass

    reader = threading.Thread(target=read)
    reader.start()
    process.wait(timeout=90)
    reader.join(timeout=10)
    os.close(ours)
    shown = seen.decode()
    assert process.returncode == 0, shown
    assert "loading loads" in shown
    assert "12/12" in shown
    assert "requests/s" in shown
    assert "loading the model" in shown
    assert shown.index("\x1b[?25l") < shown.index("\x1b[?25h")  # the cursor is back


def test_a_reader_that_leaves_is_no_error(vbs, tmp_path):
    path = file_of(tmp_path, line("big", "[[bytes 3000000]]"))
    batch_id = batch(vbs, "submit", path, "--wait").split()[0]
    words = ["results", batch_id, "--url", vbs.url, "--key", vbs.key]
    process = command(vbs, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(100)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141


def test_the_results_of_a_batch_that_still_runs(vbs, tmp_path):
    path = file_of(tmp_path, *[line(f"r{number}", model="slow") for number in range(60)])
    batch_id = batch(vbs, "submit", path).strip()
    deadline = time.monotonic() + 60
    while not (found := batch(vbs, "results", batch_id)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert json.loads(found.splitlines()[0])["custom_id"].startswith("r")
    assert batch(vbs, "cancel", batch_id).strip() in ("cancelling", "cancelled")
    assert "cancelled" in batch(vbs, "show", batch_id, "--wait")
    assert batch(vbs, "results", batch_id).startswith(found)
