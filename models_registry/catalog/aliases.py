"""The names that requests may use: those of models, and aliases that point at models. Knows no batches.

A model's name wins over an alias of the same name, so two adds at the same instant can harm nobody.
"""

import re

from django.db.models.functions import Now

from models_registry import workloads
from models_registry.catalog import allowed
from models_registry.catalog.folders import ModelError, Needed, Taken
from models_registry.models import Alias, Model

ALIAS = re.compile(r"@?[A-Za-z0-9][A-Za-z0-9._:/-]{0,198}")


def resolve(name: str) -> Model | None:
    """The model that a name stands for now."""
    model = Model.objects.select_related("base").filter(name=name).first()
    if model is None and (alias := Alias.objects.select_related("model__base").filter(name=name).first()):
        model = alias.model
    return model


def tasks() -> dict[str, str]:
    """Every name, and what its model is for."""
    return dict(Alias.objects.values_list("name", "model__task")) | dict(Model.objects.values_list("name", "task"))


def models() -> dict[str, Model]:
    """Every name, and the model that it stands for."""
    found = {model.pk: model for model in Model.objects.select_related("base")}
    pointing = Alias.objects.values_list("name", "model_id")
    return {name: found[pk] for name, pk in pointing if pk in found} | {model.name: model for model in found.values()}


def engines() -> dict[str, str]:
    """Every name, and the model whose engine serves it: an adapter is served by its base's."""
    found = {}
    for alias, name, base in Alias.objects.values_list("name", "model__name", "model__base__name"):
        found[alias] = base or name
    for name, base in Model.objects.values_list("name", "base__name"):
        found[name] = base or name
    return found


def point(name: str, model: Model) -> str:
    """Let an alias point at a model; the name of the model that it pointed at before, or empty. Raises ModelError.

    A batch that has started keeps the model that it started with.
    """
    if not ALIAS.fullmatch(name) or ".." in name:
        raise ModelError(
            f"{name!r} cannot be an alias: use 1 to 200 letters, digits and . _ : / -, a letter or digit first "
            "(or @ and then one), and no '..'"
        )
    if Model.objects.filter(name=name).exists():
        raise Taken(f"{name} is a model's own name: choose another for the alias")
    allowed.check(model)
    before = Alias.objects.filter(name=name).values_list("model__name", flat=True).first()
    Alias.objects.update_or_create(name=name, defaults={"model": model, "changed_at": Now()})
    return before or ""


def remove(name: str) -> None:
    """Raises ModelError when there is no such alias, or something still needs it."""
    alias = Alias.objects.filter(name=name).first()
    if alias is None:
        raise ModelError(f"there is no alias {name!r}: 'manage.py model list' names those there are")
    if reasons := workloads.needs([name]):
        raise Needed(f"{name} is still needed: {'; '.join(reasons)}")
    alias.delete()
