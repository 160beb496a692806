"""The names that requests may use: those of models, and aliases, which point at models.

A model's name wins over an alias of the same name, so adding both at the same instant does no harm.
"""

import re

from django.db.models.functions import Now

from models_registry import workloads
from models_registry.catalog import allowed
from models_registry.catalog.folders import ModelError, Needed, Taken
from models_registry.engine.spec import EngineKind
from models_registry.models import Alias, Model, Task
from vbs.openai import ids
from vbs.places import PROGRAM

ALIAS = re.compile(r"@?[A-Za-z0-9][A-Za-z0-9._:/-]{0,198}")
# By task, where its models answer. One for embeddings scores texts by the angle between their vectors.
_WRITING = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
_SCORING = ("/v1/score", "/v1/rerank")
ENDPOINTS: dict[str, tuple[str, ...]] = {
    Task.CHAT: _WRITING,
    Task.COMPLETION: _WRITING,
    Task.EMBEDDING: ("/v1/embeddings", *_SCORING),
    Task.SCORE: _SCORING,
}


def resolve(name: str) -> Model | None:
    """The model of this name or alias; None when there is none."""
    model = Model.objects.select_related("base").filter(name=name).first()
    if model is None and (alias := Alias.objects.select_related("model__base").filter(name=name).first()):
        model = alias.model
    return model


def tasks() -> dict[str, str]:
    """The task of the model of every name."""
    return dict(Alias.objects.values_list("name", "model__task")) | dict(Model.objects.values_list("name", "task"))


def unsupported(name: str, task: str, endpoint: str) -> str:
    """Why the model of this name and task does not answer at an endpoint; empty when it does."""
    if endpoint in ENDPOINTS[task]:
        return ""
    return f"The model '{ids.shown(name)}' is for {task}; it is not supported at {endpoint}."


def models() -> dict[str, Model]:
    """The model of every name."""
    found = {model.pk: model for model in Model.objects.select_related("base")}
    pointing = Alias.objects.values_list("name", "model_id")
    return {name: found[pk] for name, pk in pointing if pk in found} | {model.name: model for model in found.values()}


def engines() -> dict[str, str]:
    """For every name, the name of the model whose engine serves it: an adapter is served by its base's engine."""
    found = {}
    for alias, name, base in Alias.objects.values_list("name", "model__name", "model__base__name"):
        found[alias] = base or name
    for name, base in Model.objects.values_list("name", "base__name"):
        found[name] = base or name
    return found


def lanes() -> dict[str, str]:
    """For every name of a remote model, the model's own, which is that of its lane. All others run on the GPU."""
    found: dict[str, str] = {}
    for model, alias in Model.objects.filter(kind=EngineKind.REMOTE).values_list("name", "aliases__name"):
        found |= {model: model} | ({alias: model} if alias else {})
    return found


def point(name: str, model: Model) -> str:
    """Point an alias at a model. Returns the name of the model that it pointed at before, or empty. Raises ModelError.

    A batch that has started keeps the model with which it has started.
    """
    if not ALIAS.fullmatch(name) or ".." in name:
        raise ModelError(
            f"{name!r} cannot be an alias: use 1 to 200 letters, digits and . _ : / -, a letter or digit first "
            "(an @ may stand before it), and no '..'"
        )
    if Model.objects.filter(name=name).exists():
        raise Taken(f"{name} is the name of a model: choose another name for the alias")
    allowed.check(model)
    before = Alias.objects.filter(name=name).values_list("model__name", flat=True).first()
    Alias.objects.update_or_create(name=name, defaults={"model": model, "changed_at": Now()})
    return before or ""


def remove(name: str) -> None:
    """Remove an alias. Raises ModelError when there is no such alias, or something still needs it."""
    alias = Alias.objects.filter(name=name).first()
    if alias is None:
        raise ModelError(f"there is no alias {name!r}: '{PROGRAM} model list' lists the aliases")
    if reasons := workloads.needs([name]):
        raise Needed(f"{name} is still needed: {'; '.join(reasons)}")
    alias.delete()
