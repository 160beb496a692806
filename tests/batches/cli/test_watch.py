"""`manage.py batch` follows a batch, through restarts of the server."""

from io import StringIO

import pytest

from batches.cli.watch import watch
from tests.batches.cli.test_remote import STEERING
from tests.batches.cli.test_report import LOADING, a_batch, a_queue
from vbs.cli.remote import RemoteError

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
    """One when the words change, and none for each figure."""
    out = StringIO()
    counts = [{"total": 50, "completed": number, "failed": 0} for number in range(50)]
    done = a_batch(status="completed", request_counts={"total": 50, "completed": 50, "failed": 0})
    watch(Script(*[a_batch(request_counts=one) for one in counts], done), a_batch(), out)
    assert out.getvalue().splitlines() == [
        "  0 %  running, 0/50, 2.5 requests/s, 50 tokens/s, 2 s left",
        "100 %  completed, 50/50, 2.5 requests/s, 50 tokens/s, 2 s left",
    ]


def test_a_load_is_told_in_figures(fast):
    out, held = StringIO(), a_batch(status="validating", in_progress_at=None)
    held["progress"] = held["progress"] | {"phase": "loading"}
    watch(Script(held, held, a_batch(status="completed"), queue=a_queue(LOADING)), held, out)
    assert out.getvalue().splitlines()[0] == "loading m, loading weights (40 %)"
    assert len(out.getvalue().splitlines()) == 2 and "\x1b" not in out.getvalue()


def test_loading_is_timed(fast):
    waiting = a_batch(status="validating", queue_position=4)
    held = a_batch(status="validating")
    answers = [waiting] * 5 + [held] * 5 + [a_batch()] * 5 + [a_batch(status="completed")]
    queue = a_queue(LOADING)
    queue["workers"][0]["activity"] = f"Loading {STEERING}"
    assert 0.1 > watch(Script(*answers[:11], answers[-1], queue=queue), waiting, StringIO()).loading_seconds > 0.04
    assert watch(Script(*answers, queue=a_queue({})), waiting, StringIO()).loading_seconds == 0
