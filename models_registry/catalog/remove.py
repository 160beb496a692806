"""Removes models from the registry: what still needs a model, how much its files take, and which files nobody uses.

Apps above say through their `Workload` whether they still need a model.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models import ProtectedError, Q

from models_registry import workloads
from models_registry.catalog import made_folders, partial_files
from models_registry.catalog.folders import ModelError, Needed
from models_registry.models import OPEN_DOWNLOADS, OPEN_OPERATIONS, Download, Model, ModelState
from vbs.broker import wake

MOST_NAMED = 20  # operations that are named as needing a model


@dataclass(frozen=True)
class Preview:
    """What would be deleted with a model. folder: None when no folder of ours would."""

    folder: Path | None
    bytes: int
    files: int


NOTHING = Preview(None, 0, 0)


@dataclass(frozen=True)
class Leftover:
    """A folder that no model uses. what: says why it exists."""

    folder: Path
    what: str
    bytes: int
    files: int

    @property
    def id(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"


def needed_by(model: Model) -> list[str]:
    """What needs the model, in words, and what to do about it where that is not obvious."""
    pointing = list(model.aliases.values_list("name", flat=True))
    reasons = [f"adapter {name}" for name in model.adapters.values_list("name", flat=True)]
    reasons += [f"alias {name}" for name in pointing]
    if download := Download.objects.filter(model=model, state__in=OPEN_DOWNLOADS).first():
        reasons.append(f"its download, which is {download.state} (cancel it first)")
    waiting = list(model.operations.filter(state__in=OPEN_OPERATIONS)[: MOST_NAMED + 1])
    reasons += [f"operation {one.pk} ({one.kind}, {one.state}; cancel it first)" for one in waiting[:MOST_NAMED]]
    if len(waiting) > MOST_NAMED:
        reasons.append("more operations")
    return reasons + workloads.needs([model.name, *pointing])


def preview(model: Model) -> Preview:
    """What removing the model with its files would free, with an unfinished download. It does not say whether the model
    may be removed."""
    places = [place for place in (_own_folder(model), _parts(model)) if place]
    sizes = [_size(place) for place in places]
    return Preview(places[0], sum(size for size, _ in sizes), sum(count for _, count in sizes)) if places else NOTHING


def remove(model: Model, files: bool = False) -> None:
    """Remove a model from the registry; with `files` also its folder, which must be one that we made.

    The fetched files of a failed download are removed in any case, because nothing else could use them.
    """
    folder = _deletable(model) if files else None
    if folder is None:
        _delete(model)
    else:
        with made_folders.lock(folder):
            _delete(model)
            made_folders.discard(folder)
    if model.hub_id:
        partial_files.clean(model.name)


def leftovers() -> list[Leftover]:
    """Folders that we made and no model uses, and packages that were fetched for demo models."""
    found = []
    for folder in _folders(Path(settings.MODELS_DIR)):
        if made_folders.is_ours(folder) and not _users(folder):
            found.append(Leftover(folder, "no model uses it", *_size(folder)))
    for folder in _folders(_cache()):
        found.append(Leftover(folder, "fetched to make a demo model; it would be fetched again", *_size(folder)))
    return found


def clean(leftover: Leftover) -> None:
    """Delete a leftover, unless a model uses it by now. Raises ModelError."""
    folder = leftover.folder
    with made_folders.lock(folder):
        if folder.parent == _cache():
            shutil.rmtree(folder)
            return
        if users := _users(folder):
            raise ModelError(f"{folder} is the folder of {users[0]} by now, so it stays")
        made_folders.discard(folder)


def _delete(model: Model) -> None:
    """Delete its row. Nothing can come to need it meanwhile: a reference to it waits for our lock, and then fails."""
    with transaction.atomic():
        if not Model.objects.select_for_update().filter(pk=model.pk).exists():
            raise ModelError(f"the model {model.name} has been removed already")
        if reasons := needed_by(model):
            raise Needed(f"{model.name} is still needed: {'; '.join(reasons)}")
        try:
            Model.objects.filter(pk=model.pk).delete()
        except ProtectedError as error:
            raise Needed(f"{model.name} is still needed: {', '.join(map(str, error.protected_objects))}") from None
        if model.base:
            wake("gpu")  # the worker's engine may have the adapter loaded


def _own_folder(model: Model) -> Path | None:
    """Its folder, if we made it and no other model uses it."""
    folder = Path(model.source) if model.source else made_folders.path_of(model.name)
    ours = made_folders.is_ours(folder) and not [user for user in _users(folder) if user != model.name]
    return folder if ours else None


def _parts(model: Model) -> Path | None:
    """The folder of its unfinished download, if there is one."""
    folder = partial_files.folder_of(model.name)
    return folder if model.hub_id and folder.is_dir() else None


def _deletable(model: Model) -> Path | None:
    """Its folder, or None when it has no files yet. Raises ModelError when the folder may not be deleted."""
    if (folder := _own_folder(model)) is not None:
        return folder
    if not model.source and model.hub_id:
        return None
    folder = Path(model.source)
    if not made_folders.is_ours(folder):
        raise ModelError(
            f"the files of {model.name} ({model.source or 'none'}) were not made by this server, which therefore does "
            "not delete them: leave out --files"
        )
    other = next(user for user in _users(folder) if user != model.name)
    raise ModelError(f"{folder} is also the folder of {other}: leave out --files")


def _users(folder: Path) -> list[str]:
    """Names of the models whose files are in the folder, or will be."""
    used = [name for name, source in Model.objects.values_list("name", "source") if _is_in(source, folder)]
    unfinished = Model.objects.filter(Q(source="") | ~Q(state=ModelState.READY)).values_list("name", flat=True)
    return used + [name for name in unfinished if made_folders.path_of(name) == folder]


def _is_in(source: str, folder: Path) -> bool:
    return source.startswith("/") and Path(source).is_relative_to(folder)


def _cache() -> Path:
    return Path(settings.VBS_DATA_DIR) / "cache" / "demo"


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(one for one in place.iterdir() if one.is_dir() and not one.name.startswith("."))
    except FileNotFoundError:
        return []


def _size(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files in a folder, without following links."""
    total = count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).lstat().st_size
            except FileNotFoundError:  # removed meanwhile
                continue
            count += 1
    return total, count
