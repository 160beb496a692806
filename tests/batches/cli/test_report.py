"""What `manage.py batch` says in words, and the files that it writes."""

import io
import json
from io import StringIO

import pytest
from django.core.management.base import OutputWrapper

from batches.cli import report
from batches.management.commands.batch import first_url
from tests.batches.cli.test_remote import STEERING
from vbs.cli.terminal import JsonLines, aligned
from vbs.cli.whole_file import NotAFile, whole_file

# Words and files


def a_batch(**changes):
    batch = {
        "name": "reviews",
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
        "progress": {
            "phase": "running",
            "percent": 50.0,
            "tokens_per_second": 50.0,
            "requests_per_second": 2.5,
            "eta_seconds": 2,
        },
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
BESIDE = LOADING | {"work_id": "batch_0", "work_ids": ["batch_0", "batch_1"]}


@pytest.mark.parametrize(
    ("phase", "batch", "queue", "words"),
    [
        ("validating", {"queue_position": None}, a_queue({"cluster": "io"}), "validating"),
        ("validating", {"queue_position": None}, a_queue(), "validating, but no io worker is there"),
        ("queued", {"queue_position": 3}, a_queue({}), "queued, number 3"),
        (
            "queued",
            {"queue_position": 3},
            a_queue({}) | {"paused": {"since": 1}},
            "queued, number 3, and the queue is paused",
        ),
        ("queued", {"queue_position": None}, a_queue({}), "queued"),
        ("queued", {"queue_position": 1}, a_queue({"alive": False}), "queued, number 1, but no gpu worker is there"),
        ("loading", {}, a_queue({}), "loading"),
        ("loading", {}, a_queue(LOADING), "loading m: loading weights (40 %)"),
        ("loading", {}, a_queue(LOADING | {"activity": "Loading x"}, OURS), "loading m: loading weights (40 %)"),
        ("loading", {}, a_queue(LOADING | {"activity": "Loading x"}, BESIDE), "loading m: loading weights (40 %)"),
        ("loading", {}, a_queue(LOADING | {"alive": False}), "loading"),
        ("running", {}, None, "running"),
        ("running", {}, a_queue(LOADING), "running"),
        ("writing", {"queue_position": None}, None, "writing"),
        ("cancelling", {"queue_position": None}, None, "cancelling"),
        (None, {"status": "expired"}, None, "expired"),
    ],
)
def test_what_happens_in_words(phase, batch, queue, words):
    shown = a_batch(**batch)
    shown["progress"]["phase"] = phase
    assert report.doing(shown, queue).startswith(words)


def test_a_server_of_an_earlier_version_tells_no_phase():
    batch = a_batch()
    del batch["progress"]["phase"], batch["name"]
    assert report.doing(batch, None) == report.state(batch) == "in_progress"
    assert "in_progress" in report.listing([batch]) and "batch_1" in report.listing([batch])


def test_a_list_begins_with_names():
    lines = report.listing([a_batch(), a_batch(name="n" * 200 + "\n", id="batch_2"), a_batch(name=None)]).splitlines()
    assert lines[0].startswith("name") and lines[1].startswith("reviews ") and lines[1].endswith("batch_1")
    assert lines[2].startswith("n" * 39 + "… ") and lines[3].startswith("- ")


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
