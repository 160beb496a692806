"""The adapters of a model for which work waits, and what they mean for its engine.

An engine is started with room for the adapters for which work waits then, and without any it is started plain, which is
faster (docs/models.md has the figures). It keeps what it was started with until it is started again for another reason,
or because work for an adapter comes that it cannot take: that is a swap like one to another model.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from models_registry.engine.resident import Resident
from models_registry.fit import judge
from models_registry.models import Alias, Model, ModelState
from models_registry.workloads import Work


def named(base: str) -> dict[str, Model]:
    """The adapters of the model of this name that are ready, by every name that requests may use for them."""
    here = Model.objects.filter(base__name=base, state=ModelState.READY).select_related("base")
    found = {model.pk: model for model in here}
    if not found:
        return {}
    aliases = Alias.objects.filter(model__in=found).values_list("name", "model_id")
    return {name: found[pk] for name, pk in aliases} | {model.name: model for model in found.values()}


def options(base: Model, asked: Iterable[str]) -> dict[str, Any]:
    """The options for adapters with which the model's engine is started. asked: the names for which work waits."""
    adapters = named(base.name)
    active = {adapters[name].pk for name in asked if name in adapters}
    if not active and base.engine_args.get("enable-lora") is not True:
        return {}
    return base.lora_options(len(active), judge.adapters_at_once(base))


def restarting(waiting: Iterable[Work], resident: Resident) -> Iterator[Work]:
    """The work that waits; where the loaded engine has to be started again for one of its adapters, this is said."""
    engine = resident.engine
    adapters: dict[str, Model] | None = None
    for work in waiting:
        if engine is None or work.model != engine.spec.name or not set(work.asked) - {work.model}:
            yield work
            continue
        adapters = named(work.model) if adapters is None else adapters
        wanted = [adapters[name].adapter() for name in work.asked if name in adapters]
        serves = all(engine.serves(engine.spec, adapter) for adapter in wanted)
        yield work if serves else replace(work, restarts=True)
