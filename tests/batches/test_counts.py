"""The numbers and speeds of a batch are the same wherever they are told: the API, the pages, the command line."""

import re
from datetime import timedelta

import pytest
from django.utils import timezone
from openai.types import Batch as OpenAIBatch

from batches.api import wire
from batches.cli import report
from batches.counts import Counts
from batches.models import Batch
from batches.pages.batch import page as detail
from batches.queue import forecast
from batches.run import pace
from models_registry.speed import speeds
from tests.engines import CHAT
from vbs.pages.parts import rendered
from vbs.pages.viewer import Viewer
from vbs.pages.words import number

pytestmark = pytest.mark.django_db
NOW = timezone.now()


@pytest.fixture
def made(project):
    def make(**fields):
        return Batch.objects.create(
            project=project, input_file_id_given="x", endpoint=CHAT, completion_window="24h", model_names=["m"],
            expires_at=NOW + timedelta(days=1), **fields,
        )  # fmt: skip

    return make


def readings(part):
    """What a part of a page shows, by name."""
    (fragment,) = rendered([part], Viewer(frozenset(), None))
    shown = dict(re.findall(r"<dt>(?:<span[^>]*></span>)?([^<]+)</dt><dd>([^<]+)</dd>", fragment.text))
    if done := re.search(r"<strong>([^<]+)</strong> of ([^<]+)</p>", fragment.text):
        shown["Done"] = " of ".join(done.groups())
    return shown


ENDED = {
    "cancelled": ({"total": 100, "completed": 20, "failed": 80, "not_run": 75}, (20, 5, 75)),
    "expired": ({"total": 100, "completed": 20, "failed": 80, "not_run": 80}, (20, 0, 80)),
    "completed": ({"total": 100, "completed": 99, "failed": 1, "not_run": 0}, (99, 1, 0)),
    "failed": ({"total": 100, "completed": 0, "failed": 0, "not_run": 0}, (0, 0, 100)),  # its model cannot be loaded
}


@pytest.mark.parametrize("status", ENDED)
def test_what_was_not_run_is_counted_alike_everywhere(made, status):
    fields, (completed, failures, not_run) = ENDED[status]
    batch = made(status=status, **fields)
    told = wire.batch_object(batch)
    assert told["not_run"] == not_run
    assert told["request_counts"] == {name: fields[name] for name in ("total", "completed", "failed")}
    assert Counts.read(told) == batch.counts
    counts = batch.counts
    assert (counts.completed, counts.failures, counts.not_run, counts.pending) == (completed, failures, not_run, 0)
    bar = readings(detail._bar(batch))
    assert bar.pop("Done") == f"{100 - not_run} % of 100"
    told_of = {"Completed": completed, "Failed": failures, "Not run": not_run}
    assert bar == {name: f"{count}" for name, count in told_of.items() if count or name == "Completed"}
    rest = f", {not_run} not run" if not_run else ""
    assert f"{completed} completed, {failures} failed{rest}\n" in report.summary(told) + "\n"
    assert report.listing([told]).splitlines()[1].split()[2:4] == [f"{completed + failures}/100", f"{failures}"]


def test_the_official_client_reads_it(made):
    batch = made(status="cancelled", **ENDED["cancelled"][0])
    read = OpenAIBatch.model_validate(wire.batch_object(batch), strict=True)
    counts = read.request_counts
    assert counts.total == counts.completed + counts.failed == 100 and read.not_run == 75


def test_while_it_runs_nothing_is_given_up(made):
    counts = made(status="in_progress", total=100, completed=20, failed=3).counts
    assert (counts.failures, counts.answered, counts.pending, counts.not_run) == (3, 23, 77, 0)


def test_a_server_of_an_earlier_version_is_read(made):
    told = wire.batch_object(made(status="expired", total=10, completed=4, failed=6, not_run=5))
    del told["not_run"]
    assert Counts.read(told) == Counts(10, 4, 6, 0)


@pytest.mark.parametrize(("written", "counted"), [(3000, 3000), (0, 900)], ids=["answers", "embeddings"])
def test_a_speed_is_the_same_everywhere(made, written, counted):
    """10 s, 200 requests. In one place tokens read were added to those written, in another they were not."""
    batch = made(
        status="completed", total=200, completed=190, failed=10, input_tokens=900, output_tokens=written,
        in_progress_at=NOW, finalizing_at=NOW + timedelta(seconds=10), completed_at=NOW + timedelta(seconds=60),
        tokens_per_second=7.0,
    )  # fmt: skip
    assert speeds.counted(900, written) == counted
    told = wire.batch_object(batch)
    assert (told["progress"]["requests_per_second"], told["progress"]["tokens_per_second"]) == (20.0, counted / 10)
    page = readings(detail._going(batch, forecast.of(batch)))
    assert page["Requests, on average"] == f"{number(20.0)}/s"
    assert page["Tokens, on average"] == f"{number(counted / 10)}/s"
    assert f"20.0 requests/s, {counted // 10} tokens/s" in report.summary(told)


def test_what_waits_or_has_not_begun_has_no_speed(made):
    rates = {"requests_per_second": 2.0, "tokens_per_second": 9.0}
    for status in ("validating", "in_progress", "failed"):
        batch = made(status=status, in_progress_at=NOW if status == "in_progress" else None, **rates)
        assert pace.of(batch) == pace.UNKNOWN
        told = wire.batch_object(batch)["progress"]
        assert (told["requests_per_second"], told["tokens_per_second"]) == (None, None)
