"""What has come of models that are fetched, file by file: where it lies, and when it goes.

It lies in MODELS_DIR/.fetch/<name> until the model is whole.
"""

import logging
import shutil
from pathlib import Path
from urllib.parse import quote, unquote

from django.conf import settings

from models_registry.catalog import made_folders
from models_registry.catalog.folders import ModelError
from models_registry.models import OPEN_DOWNLOADS, Download, DownloadState, Model, ModelState
from vbs.database.outages import DATABASE_ERRORS, first_line

log = logging.getLogger(__name__)

LONGEST_FOLDER = 240  # bytes of a folder's name, with room for an ending
KEPT = (*OPEN_DOWNLOADS, DownloadState.FAILED)  # downloads of which what has come is kept


def root() -> Path:
    return Path(settings.MODELS_DIR) / ".fetch"


def folder_of(name: str) -> Path:
    return root() / _quoted(name)


def check_length(name: str) -> None:
    """Raises ModelError for a name that no folder can have."""
    if len(_quoted(name)) > LONGEST_FOLDER:
        raise ModelError(f"{name[:60]}… is too long for the name of a folder: choose a shorter name")


def sweep() -> None:
    """Remove what nobody fetches any more."""
    for folder in root().glob("*"):
        name = unquote(folder.name)
        if not Download.objects.filter(model__name=name, state__in=KEPT).exists():
            clean(name)


def clean(name: str) -> None:
    """Remove what has come of a model that nobody fetches any more. Whoever still works on it does that himself.

    It is no more than tidy: what led to it has happened, and is not to be told as failed.
    """
    try:
        with made_folders.lock(made_folders.path_of(name)):
            clean_locked(name)
    except ModelError as error:
        log.info("Download of %s: what has come of it stays for now: %s", name, error)
    except (OSError, *DATABASE_ERRORS) as error:
        log.warning("Download of %s: what has come of it stays for now: %s", name, first_line(error))


def clean_locked(name: str) -> None:
    """As above, for whoever has the lock of the model's folder."""
    if Download.objects.filter(model__name=name, state__in=KEPT).exists():
        return
    shutil.rmtree(folder_of(name), ignore_errors=True)
    folder = made_folders.path_of(name)
    cancelled = Model.objects.filter(name=name, state=ModelState.DRAFT, download__state=DownloadState.CANCELLED)
    if made_folders.is_ours(folder) and cancelled.exists():
        made_folders.discard(folder)  # made by somebody who was killed before he could register it


def _quoted(name: str) -> str:
    return quote(name, safe="")
