"""The reasons in the queue: whoever compares a row with the others finds its reason true."""

import random
from datetime import timedelta

import pytest
from django.utils import timezone

from batches.models import Batch
from batches.queue import reasons, snapshot
from batches.queue.entries import entries, waiting_count
from batches.queue.reasons import Placed
from batches.queue.simulated_queue import Placement
from batches.queue.snapshot import Forecast
from models_registry.gpu import operations
from models_registry.gpu.arbiter import Reason
from models_registry.models import Model, Worker
from tests.batches.waiting import model, one_at_a_time, queued, worker  # noqa: F401

NOW = timezone.now()
PATIENCE = timedelta(minutes=30)


def placed(reason, waited=1.0, priority=0, due=1e6, was=None, passed=False):
    """A batch that has waited for so many minutes, and is due in so many."""
    since, until = NOW - timedelta(minutes=waited), NOW + timedelta(minutes=due)
    row = Batch(priority=priority, validated_at=since, expires_at=until)
    return Placed(Placement(row.pk, reason, passed, priority if was is None else was), row)


def of(*rows):
    return reasons.of_places(rows, NOW, PATIENCE)


def test_what_is_foreseen_is_not_told_as_if_it_were_so_now():
    assert of(placed(Reason.WAITED, waited=31)) == ["It has waited for more than 30 min (VBS_MAX_WAIT_MINUTES)."]
    (said,) = of(placed(Reason.WAITED, waited=1))
    assert said == "It will have waited for more than 30 min (VBS_MAX_WAIT_MINUTES) when its turn comes."
    assert of(placed(Reason.DEADLINE, due=29)) == ["Its deadline is near."]
    assert of(placed(Reason.DEADLINE, due=90)) == ["Its deadline will be near when its turn comes."]
    assert of(placed(Reason.LOADED)) == ["Its model will be loaded when its turn comes."]


def test_a_priority_that_is_another_by_now():
    assert of(placed(Reason.PRIORITY, priority=5)) == ["Its priority puts it before others."]
    assert of(placed(Reason.PRIORITY, priority=0, was=5)) == ["Its priority has just been changed."]


def test_the_order_of_arrival():
    first, second = placed(Reason.ARRIVAL, 9), placed(Reason.ARRIVAL, 5)
    assert of(first, second) == ["In order of arrival."] * 2
    after = "In order of arrival, after those of a higher priority."
    assert of(placed(Reason.PRIORITY, 1, priority=9), first)[1] == after
    assert of(placed(Reason.ARRIVAL, 9, passed=True)) == [after]
    assert of(placed(Reason.LOADED, 1), first)[1] == "In order of arrival, after those that have another reason."
    assert of(second, first)[0] == "It can start before some that came earlier."


def test_without_a_place():
    assert reasons.unplaced(None) == "Its place is not worked out yet."
    assert reasons.unplaced(Forecast(fetching=True)) == "Its model is being fetched."
    assert reasons.unplaced(Forecast(stuck=True)) == "It cannot run as it is."
    assert reasons.unplaced(Forecast()) == "It has just been put back into the queue."


def is_true(said, entry, before, behind, now):
    """Judged by the rows alone."""

    def since(one):
        return one.batch.validated_at if one.batch else one.operation.created_at

    waited = now - since(entry) > PATIENCE
    match said.split(" (")[0].rstrip("."):
        case "In order of arrival":
            return all(since(one) <= since(entry) for one in before if one.priority >= entry.priority) and all(
                since(one) >= since(entry) for one in behind if one.priority == entry.priority
            )
        case "In order of arrival, after those of a higher priority":
            return any(one.priority > entry.priority and since(one) > since(entry) for one in before)
        case "In order of arrival, after those that have another reason":
            return all("arrival" not in one.reason for one in before if since(one) > since(entry))
        case "It can start before some that came earlier":
            return any(since(one) < since(entry) for one in behind)
        case "Its priority puts it before others":
            return any(one.priority < entry.priority for one in behind)
        case "It has waited for more than 30 min":
            return waited
        case "It will have waited for more than 30 min":
            return not waited
        case "Its deadline is near":
            return entry.batch.expires_at - now < PATIENCE
        case "Its deadline will be near when its turn comes":
            return entry.batch.expires_at - now >= PATIENCE
        case "Its model will be loaded when its turn comes":
            return True
        case "It cannot run as it is":
            return "unknown" in entry.batch.model_names
        case "Its model is being fetched":
            return "coming" in entry.batch.model_names
    return False


@pytest.mark.parametrize("seed", range(12))
def test_every_reason_is_true_of_the_rows_that_are_shown(seed, queued, worker, settings):  # noqa: F811
    settings.VBS_MAX_WAIT_MINUTES = 30
    chance = random.Random(seed)
    for name in "abc":
        model(name, chance.choice([None, 0.5, 60.0]), chance.choice([None, 5.0, 900.0]))
    Model.objects.create(name="far", kind="remote", source="https://far.example/v1")
    Model.objects.create(name="coming", kind="scripted", state="downloading")
    Worker.objects.update(model_name=chance.choice(["", "a", "b"]))
    now = timezone.now()
    for _ in range(chance.randint(2, 25)):
        name = chance.choice(["a", "a", "b", "c", "far", "unknown", "coming"])
        due = now + timedelta(minutes=chance.choice([10, 60, 10**5]))
        waited = chance.choice([1, 100, 1700, 5000]) + chance.uniform(0, 60)
        made = queued((name, chance.randint(1, 9)), waited=waited, priority=chance.choice([0, 0, 0, 5, -5]))
        Batch.objects.filter(pk=made.pk).update(expires_at=due)
    for name in chance.sample("abc", chance.randint(0, 2)):
        operations.ask("benchmark", Model.objects.get(name=name), now=chance.random() < 0.5)
    snapshot.forget()
    found = entries(100).waiting
    whole = entries(100)
    assert len(found) == whole.waiting_total and waiting_count() == whole.waiting_total - whole.operations
    wrong = [
        (entry.name, entry.reason)
        for place, entry in enumerate(found)
        if not is_true(entry.reason, entry, found[:place], found[place + 1 :], timezone.now())
    ]
    assert wrong == [], f"seed {seed}"


def test_what_has_been_put_back_is_not_said_to_be_unable_to_run(queued, worker):  # noqa: F811
    model("a", 1.0, 1.0)
    one = queued(("a", 5))
    until = timezone.now() + timedelta(minutes=1)
    Batch.objects.update(leased_by=worker.pk, leased_until=until, status="in_progress", in_progress_at=NOW)
    snapshot.forget()
    assert [entry.pk for entry in entries(9).running] == [one.pk]
    Batch.objects.update(leased_by=None, leased_until=None)
    (entry,) = entries(9).waiting
    assert entry.reason == "It has just been put back into the queue."
    snapshot.forget()
    (entry,) = entries(9).waiting
    assert (entry.reason, entry.position) == ("In order of arrival.", 1)
