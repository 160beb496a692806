"""Fit of a model that is not fetched yet, from the beginnings of its files on the hub."""

import json
import struct

import pytest

from models_registry.catalog.folders import ModelError
from models_registry.engine import defaults
from models_registry.fit import judge
from models_registry.fit.formula import GIB, Verdict
from models_registry.hub import downloads
from models_registry.hub.scripted import Fault
from tests.models_registry.fit.test_formula import SMOLLM2
from tests.models_registry.hubs import repository, running

pytestmark = pytest.mark.django_db


@pytest.fixture
def served(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(defaults, "gpu_memory", lambda: 80 * GIB)
    with running(tmp_path, settings, monkeypatch) as hub:
        yield hub


def bf16(*shape, padding=0):
    count = 1
    for side in shape:
        count *= side
    header = {
        "w": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 2 * count]},
        "__metadata__": {"x": " " * padding},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(2 * count)


def shards(hub, **more):
    one, two = bf16(512, 1000), bf16(512, 24, padding=300_000)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    files = {
        "config.json": json.dumps(SMOLLM2).encode(),
        "model.safetensors": None,
        "model-00001-of-00002.safetensors": one,
        "model-00002-of-00002.safetensors": two,
        "model.safetensors.index.json": json.dumps(index).encode(),
    }
    return repository(hub, **files | more)


def test_the_headers_of_all_shards_count(served, settings):
    shards(served)
    draft = downloads.add("m", "org/tiny")
    found = judge.judge(draft, ask_hub=True)
    assert found.verdict == Verdict.FITS
    assert found.need.weights == 512 * 1024 * 2
    assert not (settings.MODELS_DIR / ".fetch").exists(), "nothing was kept of it"


def test_it_is_what_is_said_once_it_is_fetched(served, tmp_path):
    content = shards(served)
    folder = tmp_path / "same"
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    draft = downloads.add("m", "org/tiny")
    assert judge.judge(draft, 2048, ask_hub=True).need == judge.judge_folder(folder, 2048).need


def test_without_asking_the_hub_a_draft_is_not_judged(served):
    shards(served)
    with pytest.raises(ModelError, match="fetch it first"):
        judge.judge(downloads.add("m", "org/tiny"))


@pytest.mark.parametrize(
    "files, said",
    [
        ({"config.json": b"["}, "cannot be read"),
        ({"config.json": b"[]"}, "not a JSON object"),
        ({"model-00002-of-00002.safetensors": b"\0" * 50}, "cannot be read"),
        ({"model-00002-of-00002.safetensors": b"\xff" * 50}, "a header of"),
    ],
)
def test_damaged_files(served, files, said):
    shards(served, **files)
    with pytest.raises(ModelError, match=said):
        judge.judge(downloads.add("m", "org/tiny"), ask_hub=True)


def test_a_hub_that_cannot_be_reached(served):
    shards(served)
    draft = downloads.add("m", "org/tiny")
    planned = downloads.plan(draft)
    served.faults = [Fault("cut", "config.json", times=-1)]
    with pytest.raises(ModelError, match="Try again later"):
        judge.judge_hub(draft, planned)
