"""A hub on loopback with small models, for tests of what is fetched."""

import json
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from models_registry.hub import client as hub
from models_registry.hub import download_run, transfer
from models_registry.hub.scripted import ScriptedHub, serving

CONFIG = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096}


def weights(size: int, seed: int = 1) -> bytes:
    """A safetensors file with so many random bytes in one tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(size)


def repository(hub: ScriptedHub, name: str = "org/tiny", size: int = 300_000, **files) -> dict[str, bytes]:
    """Put a model there. `files` add to it, or take away when None; by their names, as in dict(**{"a.json": b""})."""
    content = {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
        "tokenizer.json": b"{}",
        "README.md": b"---\nlicense: apache-2.0\n---\n",
        "model.safetensors": weights(size),
    } | files
    content = {path: data for path, data in content.items() if data is not None}
    for path, data in content.items():
        target = hub.folder / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return content


@contextmanager
def running(folder, settings, monkeypatch) -> Iterator[ScriptedHub]:
    """A hub that the settings name, and everything in a hurry."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    settings.MODELS_DIR = folder / "models"
    settings.HF_TOKEN = ""
    monkeypatch.setattr(download_run, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(download_run, "LOCK_SECONDS", 0.5)
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(transfer, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(hub, "SILENT_SECONDS", 2)
    with serving(ScriptedHub(folder / "hub")) as served:
        settings.VBS_HUB_URL = served.url
        yield served
