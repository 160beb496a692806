"""Who is next on the GPU, and what is said of a load. No database."""

import random
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from models_registry.engine.spec import Address, EngineSpec, StartResult
from models_registry.gpu.arbiter import choose
from models_registry.gpu.loop import loaded_words
from models_registry.models import Model
from models_registry.workloads import Work

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE = timedelta(minutes=30)


def work(name, minutes=1, model="m", priority=0, left=None):
    deadline = None if left is None else NOW + timedelta(minutes=left)
    return Work(None, name, model, priority, NOW - timedelta(minutes=minutes), deadline)


@pytest.mark.parametrize(
    "waiting, expected",
    [
        ([], None),
        ([work("young", 1), work("old", 2)], "old"),
        ([work("loaded", 1, "here"), work("older", 2)], "loaded"),
        ([work("loaded", 1, "here"), work("urgent", 1, priority=1)], "urgent"),
        ([work("loaded", 1, "here"), work("patient", 29), work("overdue", 31)], "overdue"),
        ([work("loaded", 1, "here"), work("due soon", 1, left=10)], "due soon"),
        ([work("loaded", 1, "here"), work("due later", 1, left=60)], "loaded"),
        ([work("low but overdue", 99, priority=-1), work("normal", 1)], "normal"),
        ([work("overdue", 40), work("longer overdue", 50)], "longer overdue"),
        ([work("overdue", 50), work("overdue and loaded", 40, "here")], "overdue"),
        ([work("overdue", 60), work("overdue before it was loaded", 50, "here")], "overdue before it was loaded"),
        ([work("b"), work("a")], "a"),
    ],
)
def test_the_order(waiting, expected):
    for order in (waiting, waiting[::-1]):
        chosen = choose(order, "here", NOW - timedelta(minutes=45), NOW, PATIENCE)
        assert (chosen and chosen.id) == expected


def test_nobody_starves_while_the_loaded_model_keeps_getting_work():
    """A stream of work for the loaded model, and one that needs a swap: it runs once it has waited long enough."""
    now, loaded, waited = NOW, "here", None
    other = Work(None, "other", "m", 0, NOW)
    for minute in range(60):
        now = NOW + timedelta(minutes=minute)
        steady = Work(None, f"steady {minute}", "here", 0, now)
        chosen = choose([steady, other], loaded, NOW, now, PATIENCE)
        if chosen is other:
            waited = minute
            break
    assert waited == 31


SWAP = timedelta(seconds=45)
HOURS = 72


def arrivals(seed, every=55):
    """Work for five models, one of them wanted most, with how long each runs: nearly all that this GPU can do.

    Were each run in its turn, the swaps would be more than it can do.
    """
    generator = random.Random(seed)
    now, made = NOW, []
    while now < NOW + timedelta(hours=HOURS):
        now += timedelta(seconds=generator.expovariate(1 / every))
        (model,) = generator.choices("abcde", weights=(70, 10, 10, 5, 5))
        runs = timedelta(seconds=min(generator.expovariate(1 / 40), 900))
        made.append((Work(None, f"{len(made):05}", model, 0, now), runs))
    return made


def simulated(made, decide):
    """When each starts, how long each took with its swap, and since when its model was loaded, in the order in which
    they ran; and the swaps."""
    coming, queue, ran, swaps = sorted(made, key=lambda one: one[0].since), {}, [], 0
    now, loaded, loaded_at = NOW, "", NOW
    while coming or queue:
        while coming and coming[0][0].since <= now:
            work, runs = coming.pop(0)
            queue[work] = runs
        if not queue:
            now = coming[0][0].since
            continue
        work = decide(queue, loaded, loaded_at, now)
        took = queue.pop(work)
        if work.model != loaded:
            took += SWAP
            loaded_at = now + SWAP
            swaps += 1
        ran.append((work, now, took, loaded_at))
        now, loaded = now + took, work.model
    return ran, swaps


def longest(ran):
    return max(began - work.since for work, began, *_ in ran)


@pytest.mark.parametrize("seed", range(5))
def test_ageing_is_bounded_and_swaps_are_few(seed):
    """Three days of random work. Whoever is overdue is passed only by those who have waited even longer, or already
    waited when their model was loaded."""
    made = arrivals(seed)
    ran, swaps = simulated(made, lambda *at: choose(*at, PATIENCE))
    in_order, swaps_in_order = simulated(made, lambda queue, *_: min(queue, key=lambda work: work.since))
    assert len(ran) == len(in_order) == len(made)
    for work, began, *_ in ran:
        due = work.since + PATIENCE
        if began <= due:
            continue
        for other, start, _, loaded_at in ran:
            if due < start < began:
                assert other.since <= max(work.since, loaded_at), "somebody younger went first"
    assert longest(ran) < PATIENCE + timedelta(minutes=10), "those that are older, and what runs"
    assert swaps < 0.6 * swaps_in_order and longest(ran) < longest(in_order)


@pytest.mark.parametrize("seed", range(3))
def test_a_queue_that_never_empties_is_not_run_in_order(seed):
    """More work than could be done with a swap for each: all of it is overdue, and models still run together."""
    made = arrivals(seed, every=48)
    ran, swaps = simulated(made, lambda *at: choose(*at, PATIENCE))
    _, swaps_in_order = simulated(made, lambda queue, *_: min(queue, key=lambda work: work.since))
    assert longest(ran) < 3 * PATIENCE and swaps < 0.5 * swaps_in_order


def test_without_ageing_the_seldom_wanted_would_wait_longer():
    """So the simulation can tell the difference."""
    made = arrivals(1)
    with_it, without = (
        simulated(made, lambda *at, patience=patience: choose(*at, patience))[0]
        for patience in (PATIENCE, timedelta(days=9))
    )
    assert longest(without) > 1.5 * longest(with_it)


def loaded(asked=None, pid=1, **start):
    spec = EngineSpec("m", "/m", args=tuple((asked or {}).items()))
    return SimpleNamespace(spec=spec, address=Address("http://far/v1"), pid=pid, started=StartResult(31.24, **start))


@pytest.mark.parametrize(
    "engine, said",
    [
        (loaded(), "Loaded m in 31.2 s."),
        (loaded(woken=True), "Woke m in 31.2 s."),
        (loaded(pid=None), "m answers, on a remote server."),
        (
            loaded(reduced={"max-model-len": 4096}),
            "Loaded m in 31.2 s, with max-model-len 4096, because 8192 does not fit.",
        ),
        (
            loaded({"max-model-len": 6000}, reduced={"max-model-len": 4096}),
            "Loaded m in 31.2 s, with max-model-len 4096, because 6000 does not fit.",
        ),
        (
            loaded(reduced={"max-model-len": 4096, "gpu-memory-utilization": 0.7}),
            "Loaded m in 31.2 s, with max-model-len 4096 and gpu-memory-utilization 0.7, because more does not fit.",
        ),
    ],
)
def test_what_is_said_of_a_load(engine, said):
    assert loaded_words(Model(name="m", context_length=8192), engine) == said
