"""What the playground shows: the models to choose from, the projects, and a request to begin with."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from models_registry.catalog import aliases
from models_registry.pages.playground.draft import AS_JSON, CHAT, NUMBERS, ROLES, TEXTS, Draft
from models_registry.serving.engines import Availability
from vbs.pages.viewer import Viewer, choices

MOST_MODELS = 4  # at once
LABELS = {"max_tokens": "Max tokens", "temperature": "Temperature", "top_p": "Top p", "seed": "Seed"}


@dataclass(frozen=True)
class Choice:
    """name: of a model, an adapter or an alias. words: what it is, and what there is to say about it."""

    name: str
    words: str
    chosen: bool


def models(chosen: Collection[str]) -> dict[str, Any]:
    """Those that would answer now, and the others with the reason."""
    availability = Availability()
    ready, others = [], []
    for name, model in sorted(aliases.models().items()):
        there, why = availability.of(model)
        what = f"is {model.name}" if model.name != name else f"adapter of {model.base}" if model.base else model.task
        if there:
            ready.append(Choice(name, ". ".join(filter(None, (what, why))), name in chosen))
        else:
            others.append((name, why))
    return {"ready": ready, "others": others, "most": MOST_MODELS}


def build(viewer: Viewer, draft: Draft, project: int | None = None) -> dict[str, Any]:
    """project: that whose request is opened."""
    found = models((draft.model,))
    ready = {one.name for one in found["ready"]}
    projects = choices(viewer)
    if viewer.project is not None and project is None:
        projects = [one for one in projects if one.pk == viewer.project]
    return found | {
        "draft": draft,
        "missing": draft.model if draft.model not in ready else "",
        "projects": projects,
        "project": project or viewer.project,
        "endpoints": [(CHAT, "messages"), *TEXTS.items()],
        "roles": [*ROLES, AS_JSON],
        "numbers": [(name, LABELS[name], draft.numbers.get(name, "")) for name in NUMBERS],
    }
