"""Reads what a LoRA adapter on the hub says about its base, before it is fetched."""

import json
from collections.abc import Sequence
from contextlib import suppress

from models_registry.catalog import adapter_folders
from models_registry.catalog.folders import ModelError
from models_registry.hub import client
from models_registry.hub.files import HubFile
from vbs.logs import one_line

MOST_CONFIG = 2**20  # bytes
MOST_NAME = 200  # characters


def made_for(repository: client.HubRepository, files: Sequence[HubFile]) -> str:
    """The base that the adapter's config names: an id of the hub, or a folder of its author. Empty when not known.

    It is only shown, so a config that cannot be read is no error here; it is one after the adapter is fetched.
    """
    size = next(file.size for file in files if file.path == adapter_folders.CONFIG)
    with suppress(ModelError, ValueError, RecursionError), client.reading(repository) as read:
        content = json.loads(read(adapter_folders.CONFIG, 0, min(size, MOST_CONFIG)))
        if isinstance(content, dict) and isinstance(named := content.get("base_model_name_or_path"), str):
            return one_line(named)[:MOST_NAME]
    return ""
