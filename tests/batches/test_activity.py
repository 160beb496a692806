"""How much was answered when: commits add to it, series are drawn from it, and it goes when it is old."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db.models import F
from django.utils import timezone

from batches import activity, sweep
from batches.intake import submit
from batches.models import Activity, Batch, BatchStatus, RequestState
from batches.models.requests import COUNTS
from batches.run import claims, commit
from batches.run.outcomes import Outcome
from models_registry.models import Worker
from tests.engines import line
from vbs import upkeep

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def batch(project):
    return submit.create(project, "file-none", "/v1/chat/completions", "24h")


def totals(batch):
    rows = Activity.objects.filter(batch=batch).values_list(*COUNTS)
    return tuple(map(sum, zip(*rows, strict=True)))


def put(batch, second, completed=2, **fields):
    at = START + timedelta(seconds=second)
    return Activity.objects.create(batch=batch, at=at, completed=completed, **fields)


def test_a_run_leaves_what_its_batch_counts(add_model, submitted, gpu, close):
    add_model()
    batch = submitted([*(line(f"{n}", f"text {n}") for n in range(50)), line("bad", max_tokens=-1)])
    gpu.serve()
    close(batch)
    assert totals(batch) == (50, 1, batch.input_tokens, batch.output_tokens) and batch.output_tokens
    for row in Activity.objects.filter(batch=batch):
        assert row.at.timestamp() % Activity.BUCKET_SECONDS == 0
        assert batch.in_progress_at - timedelta(seconds=2) <= row.at <= batch.completed_at


def test_what_is_committed_twice_or_not_at_all_counts_once_or_not(add_model, submitted):
    add_model()
    batch = submitted([line(f"{n}") for n in range(3)])
    worker = Worker.objects.create(cluster="gpu", hostname="here", pid=1)
    claims.claim(batch.pk, worker.pk)
    commit.commit(batch.pk, worker.pk, [])
    assert not Activity.objects.exists()
    made = [
        Outcome(pk, RequestState.COMPLETED, 200, "{}", "r", input_tokens=7, output_tokens=5)
        for pk in batch.requests.values_list("pk", flat=True)[:2]
    ]
    for _ in range(2):
        commit.commit(batch.pk, worker.pk, made)
    assert totals(batch) == (2, 0, 14, 10)
    commit.fail_model(batch.pk, worker.pk, 0, "model_failed", "It cannot be loaded.")
    assert totals(batch) == (2, 1, 14, 10)
    commit.fail_model(batch.pk, worker.pk, 0, "model_failed", "Nothing is left.")
    assert totals(batch) == (2, 1, 14, 10)


def test_what_expires_counts_as_failed(add_model, submitted):
    add_model()
    batch = submitted([line(f"{n}") for n in range(4)])
    past = timezone.now() - timedelta(minutes=1)
    Batch.objects.filter(pk=batch.pk).update(expires_at=past, late_at=past)
    assert batch.finish() and totals(batch) == (0, 4, 0, 0)


def test_a_series_has_the_pace_of_each_step_and_rests_at_zero(batch):
    assert activity.series(batch) == []
    put(batch, 0, completed=40, failed=20, input_tokens=200, output_tokens=100)
    put(batch, 6, completed=20)
    found = activity.series(batch)
    assert [one.at for one in found] == [START + timedelta(seconds=n) for n in (0, 2, 4, 6)]
    first, *rest, last = found
    assert (first.requests, first.failures, first.input_tokens, first.output_tokens) == (20, 10, 100, 50)
    assert [one.requests for one in rest] == [0, 0] and last.requests == 10


@pytest.mark.parametrize("rows", [1, 119, 120, 121, 500, 1000])
def test_a_series_is_never_longer_than_asked_for_and_loses_nothing(batch, rows):
    Activity.objects.bulk_create(
        Activity(batch=batch, at=START + timedelta(seconds=2 * n), completed=3, output_tokens=8) for n in range(rows)
    )
    found = activity.series(batch)
    assert 1 <= len(found) <= 120
    assert sum(one.requests * one.seconds for one in found) == pytest.approx(3 * rows)
    assert all(one.output_tokens == pytest.approx(4) for one in found), "the last step, which is shorter, is no dip"


def test_a_slow_model_is_no_sawtooth(batch):
    """One answer every ten seconds is a pace of 0.1, not a spike beside four gaps."""
    for n in range(60):
        put(batch, 10 * n, completed=1)
    found = activity.series(batch)
    assert len(found) >= 4 and all(one.requests == pytest.approx(0.1, rel=0.25) for one in found)
    assert sum(one.requests * one.seconds for one in found) == pytest.approx(60)


def test_waves_of_answers_are_no_sawtooth(batch):
    """Eight at once, each taking 1.5 s: a wave or two in every two seconds."""
    for n in range(400):
        Activity.objects.filter(at=START + timedelta(seconds=int(1.5 * n) // 2 * 2)).update(
            completed=F("completed") + 8
        ) or put(batch, int(1.5 * n) // 2 * 2, completed=8)
    found = activity.series(batch)
    assert len(found) > 20 and all(one.requests == pytest.approx(8 / 1.5, rel=0.15) for one in found)


def test_a_day_and_a_rest_are_still_few_points(batch):
    put(batch, 0)
    put(batch, 86_400)
    found = activity.series(batch, points=10)
    assert len(found) <= 10 and sum(one.requests * one.seconds for one in found) == pytest.approx(4)


def test_what_is_still_being_added_to_is_left_out_while_it_runs(batch):
    put(batch, 0)
    Activity.objects.create(batch=batch, at=timezone.now(), completed=1)
    Batch.objects.filter(pk=batch.pk).update(status=BatchStatus.IN_PROGRESS)
    batch.refresh_from_db()
    assert [one.at for one in activity.series(batch)] == [START]
    batch.status = BatchStatus.COMPLETED
    assert len(activity.series(batch)) > 1


def test_others_activity_is_not_ours(project, batch):
    other = submit.create(project, "file-none", "/v1/chat/completions", "24h")
    put(other, 0)
    assert activity.series(batch) == [] and len(activity.series(other)) == 1


def test_it_goes_with_its_batch_and_when_it_is_old(batch, settings, monkeypatch):
    monkeypatch.setattr(sweep, "ROWS", 2)
    old = timezone.now() - timedelta(days=settings.VBS_RETENTION_DAYS)
    for n in range(5):
        Activity.objects.create(batch=batch, at=old - timedelta(seconds=n + 1), completed=1)
    young = Activity.objects.create(batch=batch, at=old + timedelta(hours=1), completed=1)
    upkeep.run()
    assert list(Activity.objects.all()) == [young]
    batch.delete()
    assert not Activity.objects.exists()
