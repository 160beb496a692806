"""Fit of the registry's models, corrected by what loads were measured to take. Measurements are made, not taken."""

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from django.utils import timezone

from models_registry.catalog.folders import ModelError
from models_registry.engine import defaults
from models_registry.engine.machine import gpus, identity
from models_registry.fit import judge
from models_registry.fit.formula import GIB, PER_WORD, PROCESS, AvailableMemory, Verdict
from models_registry.models import Measurement, Model
from tests.models_registry.catalog.test_add import model_folder as make_folder
from tests.models_registry.fit.test_formula import MINILM, SMOLLM2, weights

pytestmark = pytest.mark.django_db

MIB = 2**20


def process(config: dict[str, Any]) -> int:
    return PROCESS["cpu"] + PER_WORD["cpu"] * int(config["vocab_size"])


@pytest.fixture(autouse=True)
def cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "gpu_memory", lambda: 0)
    monkeypatch.setattr(defaults, "computes_in_16_bits", lambda: True)
    monkeypatch.setattr(gpus, "library", lambda: None)
    monkeypatch.setattr(identity, "name", lambda: "this one")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    memory = SimpleNamespace(total=16 * GIB, available=8 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "gpu_memory", lambda: 80 * GIB)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "m", config__json=SMOLLM2, model__safetensors=weights(("BF16", [512, 1024])))


@pytest.fixture
def model(folder: Path) -> Model:
    return Model.objects.create(name="tiny", source=str(folder))


def load(model: Model, beyond: int, minutes_ago: int = 0, **fields: Any) -> Measurement:
    """It took this much more than had been said."""
    given: dict[str, Any] = {"kind": "load", "machine": "this one", "options": defaults.options({}, "chat", "")}
    given |= {"memory_bytes": 3 * GIB + beyond, "predicted_bytes": 3 * GIB} | fields
    return Measurement.objects.create(model=model, at=timezone.now() - timedelta(minutes=minutes_ago), **given)


def corrected(model: Model) -> tuple[int, int]:
    found = judge.judge(model)
    return found.need.correction, found.loads


# What is judged


def test_a_model_and_its_folder_are_judged_alike(model: Model, folder: Path) -> None:
    found = judge.judge(model)
    assert (found.verdict, found.need.weights, found.context) == (Verdict.FITS, MIB, 8192)
    assert judge.judge_folder(folder) == found
    assert judge.judge(model, context=1000, sequences=3).context == 1000
    assert judge.judge_folder(folder, 1000, 10**6).verdict is Verdict.DOES_NOT


def test_adapters_take_room_beside_their_base(model: Model) -> None:
    assert judge.judge(model).need.lora == 0
    Model.objects.create(name="adapter", base=model, source="/nowhere", lora_rank=8)
    assert judge.judge(model).need.lora > 0


@pytest.mark.parametrize(("slots", "many"), [(1000, judge.MOST_ADAPTERS), (25, 2), (5, 1)])
def test_as_many_adapters_run_at_once_as_there_is_room_for(model: Model, monkeypatch, slots: int, many: int) -> None:
    Model.objects.create(name="adapter", base=model, source="/nowhere", lora_rank=512)
    memory = AvailableMemory("cpu", slots * judge.judge(model).need.lora // 2, cache=2**20)
    monkeypatch.setattr(judge, "_available_memory", lambda options: memory)
    assert judge.adapters_at_once(model) == many
    model.source = "/no/such/folder"
    assert judge.adapters_at_once(model) == judge.MOST_ADAPTERS


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "scripted"}, "odd is a scripted model: it takes no memory of this machine"),
        ({"kind": "remote", "source": "http://pool/v1"}, "odd is a remote model"),
        ({"source": "", "state": "draft"}, "the files of odd are not here yet: fetch it first"),
        ({"state": "downloading"}, "the files of odd are not here yet"),
        ({"source": "/no/such/folder"}, "/no/such/folder has no config.json"),
        ({"engine_args": {"max-num-seqs": "many"}}, "odd: max-num-seqs is 'many': give a whole number"),
    ],
)
def test_what_cannot_be_judged(model: Model, fields: dict[str, Any], said: str) -> None:
    odd = Model.objects.create(name="odd", **{"source": model.source} | fields)
    with pytest.raises(ModelError, match=said):
        judge.judge(odd)


def test_an_adapter_is_asked_for_by_its_base(model: Model) -> None:
    adapter = Model.objects.create(name="adapter", base=model, source=model.source)
    with pytest.raises(ModelError, match="adapter is an adapter of tiny: ask whether that model fits"):
        judge.judge(adapter)


# The correction


def test_without_loads_there_is_none(model: Model) -> None:
    assert corrected(model) == (0, 0)
    assert "corrected" not in judge.judge(model).text


def test_the_median_of_its_own_loads(model: Model) -> None:
    before = judge.judge(model).need.total
    for beyond in (100 * MIB, 300 * MIB, 5000 * MIB):  # one of them an accident
        load(model, beyond)
    found = judge.judge(model)
    assert (found.need.correction, found.loads) == (300 * MIB, 3)
    assert found.need.total == before + 300 * MIB
    assert found.text.endswith("; corrected by 3 measured loads")


def test_recent_loads_count(model: Model) -> None:
    for number in range(judge.RECENT):
        load(model, 200 * MIB, minutes_ago=number)
        load(model, 900 * MIB, minutes_ago=100 + number)
    assert corrected(model) == (200 * MIB, judge.RECENT)


def test_loads_with_the_same_options_count_first(model: Model) -> None:
    load(model, 10 * MIB, minutes_ago=2, options=defaults.options({"max-model-len": 99}, "chat", ""))  # cache is known
    load(model, 20 * MIB, minutes_ago=2, options={})  # what it was not told is what suits the machine
    load(model, 700 * MIB, options={"dtype": "float32"})
    load(model, 800 * MIB, options={"max-num-seqs": "many"})
    assert corrected(model) == (15 * MIB, 2)
    model.engine_args = {"dtype": "float32"}
    assert corrected(model) == (700 * MIB, 1)
    model.engine_args = {"enable-lora": True}
    assert corrected(model) == (800 * MIB, 1), "else its last one, whatever its options"


def test_else_the_last_load_of_each_model(model: Model) -> None:
    for number, beyond in enumerate((100, 200, 600)):
        other = Model.objects.create(name=f"other {number}", source="/elsewhere")
        load(other, beyond * MIB)
        for _ in range(5):
            load(other, 9000 * MIB, minutes_ago=60)
    assert corrected(model) == (200 * MIB, 3)
    load(model, 50 * MIB)
    assert corrected(model) == (50 * MIB, 1)


def test_a_folder_is_corrected_by_the_models(model: Model, folder: Path) -> None:
    load(model, 100 * MIB)
    assert judge.judge_folder(folder).need.correction == 100 * MIB


@pytest.mark.parametrize(
    "fields",
    [
        {"machine": "another"},
        {"kind": "benchmark"},
        {"kind": "batch"},
        {"memory_bytes": None},
        {"memory_bytes": 0},
        {"predicted_bytes": None},
    ],
)
def test_measurements_that_say_nothing(model: Model, fields: dict[str, Any]) -> None:
    load(model, 100 * MIB, **fields)
    assert corrected(model) == (0, 0)


def test_less_than_was_said_makes_room(model: Model) -> None:
    before = judge.judge(model).need.total
    load(model, -500 * MIB)
    assert judge.judge(model).need.total == before - 500 * MIB


def test_a_correction_decides(model: Model) -> None:
    load(model, 6 * GIB)
    found = judge.judge(model)
    assert found.verdict is Verdict.DOES_NOT
    assert found.text.endswith("GiB available; corrected by 1 measured load")


# What is said of a load before it is measured


def test_predicted_is_what_is_there_right_after_a_load(model: Model) -> None:
    assert judge.predicted(model, {}) == MIB + GIB + process(SMOLLM2)  # all of the cache, no step yet
    assert judge.predicted(model, {"dtype": "float32"}) == 2 * MIB + GIB + process(SMOLLM2)
    load(model, 100 * MIB)
    assert judge.predicted(model, {}) == MIB + GIB + process(SMOLLM2), "corrections are not corrected"


def test_predicted_does_not_depend_on_what_is_free_by_now(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    before = judge.predicted(model, {})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GIB, available=GIB))
    assert judge.predicted(model, {}) == before


def test_an_encoder_keeps_no_cache(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "e", config__json=MINILM, model__safetensors=weights(("F16", [512, 512])))
    encoder = Model.objects.create(name="encoder", source=str(folder), task="embedding")
    assert judge.predicted(encoder, {}) == 512 * 1024 + process(MINILM)


def test_on_a_gpu_the_engine_says_how_much_it_took(model: Model, gpu: None, tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    assert judge.predicted(model, {}) is None, "it takes its share, whatever the model"
    assert judge.predicted(model, {}, log) is None
    log.write_bytes(b"Loading \xff\nAvailable KV cache memory: nan GiB\n")
    assert judge.predicted(model, {}, log) is None
    log.write_bytes(b"INFO 11-21 [gpu_worker.py:760] Available KV cache memory: 70.5 GiB\nINFO ready\n")
    assert judge.predicted(model, {}, log) == MIB + PROCESS["gpu"] + int(70.5 * GIB)
    assert judge.predicted(model, {"kv-cache-memory-bytes": 2 * GIB}) == MIB + PROCESS["gpu"] + 2 * GIB


def test_gpus_that_share_a_model_are_measured_together(model: Model, gpu: None) -> None:
    options = {"kv-cache-memory-bytes": 2 * GIB, "tensor-parallel-size": 2}
    assert judge.predicted(model, options) == 2 * (MIB // 2 + PROCESS["gpu"] + 2 * GIB)
    load(model, 600 * MIB, options=options)
    model.engine_args = options
    assert corrected(model) == (300 * MIB, 1), "what is needed is said of each"


def test_a_remote_model_is_not_predicted() -> None:
    with pytest.raises(ModelError, match="it takes no memory of this machine"):
        judge.predicted(Model.objects.create(name="far", kind="remote", source="http://pool/v1"), {})
