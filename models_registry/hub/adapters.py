"""What a LoRA adapter on the hub says of itself before it is fetched. Knows no registry."""

import json
from collections.abc import Sequence
from contextlib import suppress

from models_registry.catalog import adapter_folders
from models_registry.catalog.folders import ModelError
from models_registry.hub import client
from models_registry.hub.files import File
from vbs.logs import one_line

MOST_CONFIG = 2**20  # bytes
MOST_NAME = 200  # characters


def made_for(place: client.Place, files: Sequence[File]) -> str:
    """The base as whoever made the adapter called it: an id of the hub, or a folder of his. Empty when not known.

    Only to be shown, so a config that cannot be had or read is no error here: it is one when the adapter has come.
    """
    size = next(file.size for file in files if file.path == adapter_folders.CONFIG)
    with suppress(ModelError, ValueError, RecursionError), client.reading(place) as read:
        content = json.loads(read(adapter_folders.CONFIG, 0, min(size, MOST_CONFIG)))
        if isinstance(content, dict) and isinstance(named := content.get("base_model_name_or_path"), str):
            return one_line(named)[:MOST_NAME]
    return ""
