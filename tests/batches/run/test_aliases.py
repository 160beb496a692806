"""A name that stands for a model: usable wherever a model's is, and kept once a batch has started."""

import pytest

from batches.models import BatchStatus
from batches.run import claims
from models_registry.catalog import add, aliases, remove
from models_registry.catalog.folders import ModelError
from models_registry.models import Model
from tests.engines import line


def asked(name, count=3):
    return [line(f"{name} {n}", model=name) for n in range(count)]


def loads(batch):
    return [event.message for event in batch.events.all() if event.message.startswith("Loaded")]


def test_a_batch_runs_on_what_the_alias_points_at_and_its_answers_bear_the_alias(add_model, submitted, gpu, close):
    aliases.point("@production", add_model("first"))
    batch = submitted(asked("@production"))
    gpu.serve()
    good, bad = close(batch)
    assert not bad and {one["response"]["body"]["model"] for one in good} == {"@production"}
    assert batch.resolved == [{"asked": "@production", "model": "first", "revision": None}]
    assert "@production stands for first here." in [event.message for event in batch.events.all()]


def test_before_it_starts_the_alias_may_move(add_model, submitted, gpu, close):
    aliases.point("best", add_model("first"))
    batch = submitted(asked("best"))
    assert aliases.point("best", add_model("second")) == "first"
    gpu.serve()
    close(batch)
    assert batch.resolved[0]["model"] == gpu.loaded == "second"


def test_after_it_has_started_it_keeps_its_model(add_model, submitted, gpu, close):
    first = add_model("first")
    aliases.point("best", first)
    batch = submitted(asked("best"))
    claimed = claims.claim(batch.pk, gpu.worker.pk)
    claimed.start(gpu.worker.pk, "best", first)
    claimed.release(gpu.worker.pk)
    aliases.point("best", add_model("second"))
    gpu.serve()
    close(batch)
    assert gpu.loaded == "first"


def test_a_model_and_its_alias_share_one_load(add_model, submitted, gpu, close):
    model = add_model("first")
    aliases.point("best", model)
    add_model("other")
    batches = [submitted(asked(name)) for name in ("first", "other", "best")]
    mixed = submitted(asked("first") + asked("best"))
    gpu.serve()
    assert [len(close(batch)[0]) for batch in (*batches, mixed)] == [3, 3, 3, 6]
    assert sum(len(loads(batch)) for batch in (*batches, mixed)) == 2


def test_an_alias_that_is_not_there_is_refused_by_name(submitted):
    batch = submitted(asked("@nowhere"))
    assert batch.status == BatchStatus.FAILED and batch.errors[0]["code"] == "model_not_found"
    assert "@nowhere" in batch.errors[0]["message"]


def test_what_a_live_batch_needs_stays(add_model, submitted, gpu, close):
    model = add_model("first")
    aliases.point("best", model)
    batch = submitted(asked("best"))
    with pytest.raises(ModelError, match=rf"first is still needed: alias best; batch {batch.pk}"):
        remove.remove(model)
    with pytest.raises(ModelError, match=rf"best is still needed: batch {batch.pk}"):
        aliases.remove("best")
    gpu.serve()
    close(batch)
    aliases.remove("best")
    remove.remove(model)
    assert not Model.objects.exists()


def test_what_a_started_batch_stands_on_stays_when_the_alias_has_moved(add_model, submitted, gpu):
    first = add_model("first")
    aliases.point("best", first)
    batch = submitted(asked("best"))
    claims.claim(batch.pk, gpu.worker.pk).start(gpu.worker.pk, "best", first)
    aliases.point("best", add_model("second"))
    with pytest.raises(ModelError, match=f"first is still needed: batch {batch.pk}"):
        remove.remove(first)


@pytest.mark.parametrize("name", ["", "@", "a b", "../x", "a..b", "@@a", "x" * 201, "näme", "a\n"])
def test_a_name_that_cannot_be_an_alias(add_model, name):
    with pytest.raises(ModelError, match="cannot be an alias"):
        aliases.point(name, add_model())


def test_a_name_is_taken_by_one_of_both_kinds(add_model):
    model = add_model("first")
    with pytest.raises(ModelError, match="is the name of a model"):
        aliases.point("first", model)
    aliases.point("best", model)
    with pytest.raises(ModelError, match="best is an alias of first"):
        add.add("best", "scripted:")
