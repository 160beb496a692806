"""What can be added to the registry, what is refused and how; a folder of ours is whole or not there."""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from models_registry import workloads
from models_registry.catalog import add as importer
from models_registry.catalog import made_folders, remove, rules
from models_registry.catalog.folders import ModelError, Taken
from models_registry.engine.spec import EngineKind
from models_registry.models import Model
from tests.adapters import adapter_folder
from tests.converter import stand_in

pytestmark = pytest.mark.django_db


def safetensors(size: int = 8) -> bytes:
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * size


def model_folder(path: Path, architecture: str = "LlamaForCausalLM", /, **files: Any) -> Path:
    """A folder that looks like a model. `files` add to it, or take away when None; `__` in a name stands for a dot."""
    content: dict[str, Any] = {
        "config.json": {"architectures": [architecture], "max_position_embeddings": 4096},
        "tokenizer_config.json": {"chat_template": "{{ messages }}"},
        "tokenizer.json": {},
        "model.safetensors": safetensors(),
    }
    content |= {name.replace("__", "."): value for name, value in files.items()}
    path.mkdir(parents=True)
    for name, value in content.items():
        if value is not None:
            (path / name).write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return path


@pytest.fixture(autouse=True)
def models_dir(tmp_path: Path, settings: Any) -> Iterator[Path]:
    settings.MODELS_DIR = tmp_path / "models"
    yield settings.MODELS_DIR
    left = [path.name for path in (tmp_path / "models" / ".import").glob("*") if not path.name.endswith("%lock")]
    assert left == [], "nothing unfinished stays behind"


# What is read from a folder


def test_a_folder_is_used_where_it_is(tmp_path: Path) -> None:
    model = importer.add("org/tiny:1", str(model_folder(tmp_path / "tiny")), engine_args={"enforce-eager": True})
    model.refresh_from_db()
    assert (model.kind, model.source, model.task) == (EngineKind.VLLM, str(tmp_path / "tiny"), "chat")
    assert (model.size_bytes, model.context_length) == (len(safetensors()), 4096)
    assert model.spec().args == (("enforce-eager", True),)


# As transformers writes the config of a cross-encoder.
CROSS_ENCODER = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}


@pytest.mark.parametrize(
    ("architecture", "files", "task"),
    [
        ("LlamaForCausalLM", {}, "chat"),
        ("Gemma3ForConditionalGeneration", {}, "chat"),
        ("LlamaForCausalLM", {"tokenizer_config__json": {}}, "completion"),
        ("LlamaForCausalLM", {"tokenizer_config__json": None}, "completion"),
        ("LlamaForCausalLM", {"tokenizer_config__json": {}, "chat_template__jinja": b"{{ messages }}"}, "chat"),
        ("BertModel", {}, "embedding"),
        ("LlamaForCausalLM", {"modules__json": {}}, "embedding"),
        ("BertForSequenceClassification", {"config__json": CROSS_ENCODER, "modules__json": {}}, "score"),
    ],
)
def test_the_task_is_guessed(tmp_path: Path, architecture: str, files: dict[str, Any], task: str) -> None:
    assert importer.add("m", str(model_folder(tmp_path / "m", architecture, **files))).task == task


def test_a_given_task_wins(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "WhisperForAudio")
    with pytest.raises(ModelError, match=r"WhisperForAudio.*--task"):
        importer.add("m", str(folder))
    assert importer.add("m", str(folder), "embedding").task == "embedding"
    classifier = model_folder(tmp_path / "classifier", "BertForSequenceClassification")
    with pytest.raises(ModelError, match=r"BertForSequenceClassification.*embedding or score"):
        importer.add("two-labels", str(classifier))


@pytest.mark.parametrize(
    ("files", "arguments", "length"),
    [
        ({"sentence_bert_config__json": {"max_seq_length": 256}}, {}, 256),
        ({}, {"max-model-len": 100}, 100),
        ({}, {"max-model-len": 10**6}, 4096),
        ({"config__json": {"architectures": ["BertModel"], "text_config": {"n_positions": 9}}}, {}, 9),
        ({"config__json": {"architectures": ["BertModel"]}}, {}, None),
    ],
)
def test_the_context_length(
    tmp_path: Path, files: dict[str, Any], arguments: dict[str, Any], length: int | None
) -> None:
    assert importer.add("m", str(model_folder(tmp_path / "m", **files)), None, arguments).context_length == length


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config__json": None}, "no config.json"),
        ({"config__json": b"{"}, "config.json cannot be read"),
        ({"config__json": b"[]"}, "not a JSON object"),
        ({"model__safetensors": None}, "no weights"),
        ({"tokenizer__json": None, "tokenizer_config__json": None}, "no tokenizer"),
        ({"model__safetensors": b""}, "damaged"),
        ({"model__safetensors": b"\xff" * 100}, "damaged"),
        ({"model__safetensors": safetensors()[:-1]}, "damaged"),
        ({"model__safetensors": safetensors() + b"\0"}, "damaged"),
        ({"model__safetensors": struct.pack("<Q", 2) + b"[]"}, "damaged"),
        ({"model__safetensors": b"version https://git-lfs.github.com/spec/v1\n"}, "git lfs pull"),
        ({"model__safetensors__index__json": {"weight_map": {"a": "lost-2.safetensors"}}}, "lost-2.safetensors"),
    ],
)
def test_a_folder_that_no_engine_could_load(tmp_path: Path, files: dict[str, Any], words: str) -> None:
    folder = model_folder(tmp_path / "m", **files)
    with pytest.raises(ModelError, match=words) as error:
        importer.add("m", str(folder))
    assert str(folder) in str(error.value)
    assert not Model.objects.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_taken_only_where_that_is_allowed(tmp_path: Path, name: str) -> None:
    folder = model_folder(tmp_path / "m", **{"model__safetensors": None, name: b"1234"})
    with pytest.raises(ModelError, match=rf"pickles only \({name}\).*--allow-pickle"):
        importer.add("m", str(folder))
    assert not Model.objects.exists()
    model = importer.add("m", str(folder), allow_pickle=True)
    assert (model.size_bytes, model.allow_pickle) == (4, True)
    with pytest.raises(ModelError, match="pickles only"):
        importer.edit(model, allow_pickle=False)


def test_an_option_that_reads_pickles_is_one_of_them(tmp_path: Path) -> None:
    folder = str(model_folder(tmp_path / "m", pytorch_model__bin=b"1234"))
    with pytest.raises(ModelError, match="load-format pt reads pickles"):
        importer.add("m", folder, None, {"load-format": "pt"})
    importer.add("m", folder, None, {"load-format": "pt"}, allow_pickle=True)


def test_what_a_trainer_left_is_no_weights(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", model__safetensors=None, **{"optimizer.pt": b"1", "training_args.bin": b"1"})
    with pytest.raises(ModelError, match="no weights"):
        importer.add("m", str(folder), allow_pickle=True)


# Names, options, other sources


@pytest.mark.parametrize("name", ["", "-m", "/m", "a b", "a\n", "a/../b", "é", "m" * 201])
def test_a_bad_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="cannot be a model's name"):
        importer.add(name, "scripted:")


@pytest.mark.parametrize(
    ("source", "more", "words"),
    [
        ("/no/such/folder", {}, "/no/such/folder does not exist"),
        (__file__, {}, "not a .gguf file"),
        ("s3://bucket/model", {}, "unknown kind of source 's3://bucket/model'"),
        ("scripted:fast", {}, "unknown kind of source"),
        ("scripted:", {"task": "-1"}, "unknown task '-1'"),
        ("scripted:", {"engine_args": {"--x": 1}}, "'--x' cannot be an engine option"),
        ("scripted:", {"engine_args": {"uds": "/x"}}, "option uds is set by this server"),
        ("scripted:", {"engine_args": {"latency-ms": "fast"}}, "engine option latency-ms: it must be a number from 0"),
        (
            "scripted:",
            {"engine_args": {"start-seconds": -1}},
            "option start-seconds: it must be a number from 0, not '-1'",
        ),
        ("scripted:", {"engine_args": {"max-num-seqs": 0}}, "option max-num-seqs: it must be a whole number from 1"),
        ("scripted:", {"engine_args": {"crash-after": "x"}}, "engine option crash-after: invalid int value: 'x'"),
        ("scripted:", {"engine_args": {"after-sleep": "dream"}}, "engine option after-sleep: invalid choice: 'dream'"),
        (
            "scripted:",
            {"engine_args": {"enable-lora": "no"}},
            "engine option enable-lora: ignored explicit argument 'no'",
        ),
        (
            "scripted:",
            {"engine_args": {"no-such": False}},
            "the scripted engine has no option no-such: it has after-sleep",
        ),
        ("scripted:", {"engine_args": {"help": True}}, "the scripted engine has no option help"),
        ("scripted:", {"engine_args": {"max_num_seqs": 1}}, "'max_num_seqs' cannot be an engine option"),
        ("/no/such/folder", {"engine_args": {"max_model_len": "x"}}, "max-model-len cannot be 'x'"),
        ("/no/such/folder", {"engine_args": {"latency-ms": 5}}, "no engine option 'latency-ms'"),
        ("scripted:", {"remote_name": "gpt"}, "only for a model on a remote server"),
        ("http://host/v2", {}, "must look like"),
        ("http://user:word@host/v1", {}, "must look like"),
        ("http://host:port/v1", {}, "must look like"),
        ("http:///v1", {}, "must look like"),
        ("http://host/v1", {"engine_args": {"max-model-len": 1}}, "leave out max-model-len"),
        ("x" * 5000, {}, "too long"),
    ],
)
def test_what_cannot_be_added(source: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        importer.add("m", source, **more)
    assert not Model.objects.exists()


def test_a_remote_server() -> None:
    spec = importer.add("m", "https://pool.example:8000/x/v1/", remote_name="llama").spec()
    assert (spec.kind, spec.source, spec.served_name) == (EngineKind.REMOTE, "https://pool.example:8000/x/v1", "llama")


def test_a_remote_server_with_several_addresses(settings: Any) -> None:
    model = importer.add("m", "http://a:1/v1", pool=["http://b:1/v1/", "http://10.0.0.1/v1"])
    assert model.spec().pool == ("http://b:1/v1", "http://10.0.0.1/v1") and model.private_address
    assert importer.edit(model, on_server=False, pool=["http://c:1/v1"]).pool == ["http://c:1/v1"]
    with pytest.raises(ModelError, match=r"m may have private addresses.*model edit m --pool URL"):
        importer.edit(model, pool=["http://8.8.8.8/v1"])  # its name may stand for a private one later
    assert importer.edit(model, pool=[]).pool == []
    settings.VBS_PRIVATE_URLS = True
    assert importer.edit(model, pool=["http://10.0.0.2/v1"]).pool == ["http://10.0.0.2/v1"]


@pytest.mark.parametrize("on_server", [True, False])
def test_what_came_over_the_network_gets_public_addresses_only(on_server: bool) -> None:
    model = importer.add("m", "http://8.8.8.8/v1", on_server=True, pool=["http://1.1.1.1/v1"])
    assert not model.private_address
    with pytest.raises(ModelError, match="not a public address"):
        importer.edit(model, on_server=on_server, pool=["http://127.0.0.1/v1"])
    with pytest.raises(ModelError, match="not a public address"):
        importer.add("n", "http://8.8.8.8/v1", on_server=True, pool=["http://127.0.0.1/v1"])
    assert Model.objects.get().pool == ["http://1.1.1.1/v1"]


@pytest.mark.parametrize(
    "pool, words",
    [
        (["http://a:1/v1/"], "is there twice"),
        (["http://b:1/v1", "http://b:1/v1"], "is there twice"),
        (["ftp://b/v1"], "cannot be a remote server"),
        (["http://b/v2"], "cannot be a remote server"),
        (["http://b/" + "x" * 1000 + "/v1"], "too long"),
        ([f"http://b{n}/v1" for n in range(32)], "at most 32 addresses"),
        ([1], "must be a list of URLs"),
        ("http://b/v1", "must be a list of URLs"),
    ],
)
def test_further_addresses_that_cannot_be(pool: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        importer.add("m", "http://a:1/v1", pool=pool)
    assert not Model.objects.exists()


def test_further_addresses_are_for_remote_models() -> None:
    with pytest.raises(ModelError, match="only for a model on a remote server"):
        importer.add("m", "scripted:", pool=["http://b/v1"])
    with pytest.raises(ModelError, match="only for a model on a remote server"):
        importer.edit(importer.add("m", "scripted:"), pool=["http://b/v1"])


def test_a_scripted_engine() -> None:
    spec = importer.add("m", "scripted:", "embedding", {"latency-ms": 5}).spec()
    assert (spec.kind, spec.task, spec.args) == (EngineKind.SCRIPTED, "embedding", (("latency-ms", 5),))


def test_a_name_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    importer.add("m", "scripted:")
    with pytest.raises(ModelError, match="there is a model m already"):
        importer.add("m", "scripted:")
    monkeypatch.setattr(rules, "check_name", lambda *_: None)  # as if the other one came after the check
    with pytest.raises(ModelError, match="there is a model m already"):
        importer.add("m", "scripted:")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", ["scripted", "folder", "adapter"])
def test_two_adds_of_one_name_at_once(tmp_path: Path, kind: str) -> None:
    """One wins; each other one hears so, and leaves nothing."""
    base = importer.add("base", "scripted:") if kind == "adapter" else None
    folders = [tmp_path / f"{kind} {number}" for number in range(8)]
    for folder in folders:
        adapter_folder(folder) if base else model_folder(folder)
    together = threading.Barrier(len(folders))

    def add(folder: Path) -> str:
        together.wait()
        try:
            return importer.add("m", "scripted:" if kind == "scripted" else str(folder), base=base).source
        except Taken as error:
            return str(error)
        finally:
            connection.close()

    with ThreadPoolExecutor(len(folders)) as pool:
        said = list(pool.map(add, folders))
    assert sum(one.startswith("there is a model m already") for one in said) == len(folders) - 1
    model = Model.objects.get(name="m")
    assert model.source in said


# Changing what is said of a model


def test_edit(tmp_path: Path, settings: Any) -> None:
    settings.VBS_TRUST_REMOTE_CODE = True
    model = importer.add("m", str(model_folder(tmp_path / "m")))
    changed = importer.edit(model, engine_args={"max_model_len": "1k"}, license="mit", notes="n", task="completion")
    assert (changed.engine_args, changed.context_length) == ({"max-model-len": 1000}, 1000)
    assert (changed.license, changed.notes, changed.task) == ("mit", "n", "completion")
    changed = importer.edit(model, engine_args={}, trust_remote_code=True)
    assert (changed.context_length, changed.license) == (4096, "mit")
    assert dict(changed.spec().args) == {"trust-remote-code": True}
    assert "trust-remote-code" not in dict(importer.edit(model, trust_remote_code=False).spec().args)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "/x"}, "source of a model cannot be changed"),
        ({"task": "sing"}, "unknown task 'sing'"),
        ({"engine_args": {"trust-remote-code": True}}, "the model's own field trust_remote_code"),
        ({"engine_args": ["x"]}, "must be a JSON object"),
        ({"engine_args": {"load-format": "pt"}}, "reads pickles"),
        ({"license": "x" * 200}, "licence"),
        ({"notes": "good", "task": "sing"}, "unknown task"),
    ],
)
def test_what_cannot_be_changed(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    model = importer.add("m", str(model_folder(tmp_path / "m")), notes="before")
    before = Model.objects.values().get()
    with pytest.raises(ModelError, match=words):
        importer.edit(model, **changes)
    assert Model.objects.values().get() == before


def test_a_base_and_its_adapters_change_together(tmp_path: Path) -> None:
    base = importer.add("base", "scripted:")
    adapter = importer.add("a", str(adapter_folder(tmp_path / "a", rank=8)), base=base)
    for name, value in (("task", "completion"), ("engine_args", {"x": 1})):
        with pytest.raises(ModelError, match=f"has the {name} of its base base"):
            importer.edit(adapter, **dict[str, Any]({name: value}))
    with pytest.raises(ModelError, match="which is not for embedding"):
        importer.edit(base, task="embedding")
    with pytest.raises(ModelError, match="less than the rank of the adapter a, which is 8"):
        importer.edit(base, engine_args={"max-lora-rank": 4})
    importer.edit(base, task="completion")
    adapter.refresh_from_db()
    assert adapter.task == "completion"
    assert importer.edit(adapter, notes="mine").notes == "mine"


def test_a_model_that_is_gone_cannot_be_changed() -> None:
    model = importer.add("m", "scripted:")
    remove.remove(model)
    with pytest.raises(ModelError, match="has been removed"):
        importer.edit(model, notes="x")
    assert not Model.objects.exists()


def test_an_adapter_of_a_base_that_is_not_here_yet(tmp_path: Path) -> None:
    base = Model.objects.create(name="base", hub_id="o/n", state="draft")
    with pytest.raises(ModelError, match=r"files of base are not here \(draft\): fetch it"):
        importer.add("a", str(adapter_folder(tmp_path / "a")), base=base)


# Folders of ours


def test_a_copy_is_ours_and_goes_with_its_model(tmp_path: Path, models_dir: Path) -> None:
    source = model_folder(tmp_path / "m")
    model = importer.add("org/m", str(source), copy=True)
    copy = models_dir / "org%2Fm"
    assert model.source == str(copy)
    assert {path.name for path in copy.iterdir()} - {path.name for path in source.iterdir()} == {made_folders.ORIGIN}
    remove.remove(model, files=True)
    assert not copy.exists()
    assert not Model.objects.exists()


def test_files_of_others_are_not_deleted(tmp_path: Path) -> None:
    model = importer.add("m", str(model_folder(tmp_path / "m")))
    with pytest.raises(ModelError, match="were not made by this server"):
        remove.remove(model, files=True)
    remove.remove(model)
    assert (tmp_path / "m" / "config.json").exists()


def test_a_folder_that_two_models_share_stays(tmp_path: Path) -> None:
    model = importer.add("m", str(model_folder(tmp_path / "m")), copy=True)
    importer.add("same", model.source)
    with pytest.raises(ModelError, match="also the folder of same"):
        remove.remove(model, files=True)


def test_a_model_that_is_needed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = importer.add("m", "scripted:")
    monkeypatch.setattr(workloads, "needs", lambda names: [f"batch_1 waits for {names[0]}"])
    with pytest.raises(ModelError, match="m is still needed: batch_1 waits for m"):
        remove.remove(model)
    assert Model.objects.exists()


def test_a_folder_that_is_in_the_way(tmp_path: Path, models_dir: Path) -> None:
    (models_dir / "m").mkdir(parents=True)
    with pytest.raises(ModelError, match="in the way"):
        importer.add("m", str(model_folder(tmp_path / "m")), copy=True)
    assert (models_dir / "m").exists()


def test_what_a_killed_run_made_is_found_again_or_replaced(tmp_path: Path, models_dir: Path) -> None:
    first, second = model_folder(tmp_path / "first"), model_folder(tmp_path / "second", note=b"2")
    importer.add("m", str(first), copy=True).delete()  # as if it was killed before the registration
    (models_dir / "m" / "seen").touch()
    importer.add("m", str(first), copy=True).delete()
    assert (models_dir / "m" / "seen").exists()
    importer.add("m", str(second), copy=True)
    assert (models_dir / "m" / "note").exists()
    assert not (models_dir / "m" / "seen").exists()


def test_what_a_killed_run_left_unfinished_goes_with_the_next(tmp_path: Path, models_dir: Path) -> None:
    for name in ("m", "other", "gone%old"):
        (models_dir / ".import" / name).mkdir(parents=True)
    importer.add("m", str(model_folder(tmp_path / "m")), copy=True)


def test_a_full_disk_leaves_nothing(tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(ModelError, match="No space left on device"):
        importer.add("m", str(model_folder(tmp_path / "m")), copy=True)
    assert not (models_dir / "m").exists()
    assert not Model.objects.exists()


def test_two_at_once(tmp_path: Path) -> None:
    with made_folders.lock(made_folders.path_of("m")), pytest.raises(ModelError, match="another process"):
        importer.add("m", str(model_folder(tmp_path / "m")), copy=True)


def test_a_file_that_is_no_gguf(tmp_path: Path, models_dir: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"not really")
    with pytest.raises(ModelError, match=r"m\.gguf is not a GGUF file"):
        importer.add("m", str(tmp_path / "m.gguf"))
    assert not (models_dir / "m").exists()


def test_a_gguf_file_that_is_cut_off(tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converter = stand_in(tmp_path / "base")
    converter.write_text(
        "import sys, pathlib\npathlib.Path(sys.argv[2], 'half').touch()\nprint('reading')\nraise ValueError('cut off')"
    )
    monkeypatch.setattr("django.conf.settings.BASE_DIR", tmp_path / "base")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    steps: list[str] = []
    with pytest.raises(ModelError, match=r"m\.gguf could not be converted: ValueError: cut off"):
        importer.add("m", str(tmp_path / "m.gguf"), on_progress=steps.append)
    assert "reading" in steps
    assert not (models_dir / "m").exists()


ENDLESS = """
import sys
from pathlib import Path
from django.conf import settings
settings.configure(MODELS_DIR=Path(sys.argv[1]), BASE_DIR=Path(sys.argv[2]))
from models_registry.catalog import made_folders
folder = made_folders.path_of("m")
with made_folders.lock(folder) as held:
    made_folders.make(folder, Path(sys.argv[3]), made_folders.converted, held, lambda step: print(step, flush=True))
"""


def test_killed_while_it_converts(tmp_path: Path, models_dir: Path) -> None:
    """The child that is left behind keeps its lock; when it has ended, the next run clears up."""
    converter = stand_in(tmp_path / "base")
    converter.write_text(
        "import os, sys, time, pathlib\npathlib.Path(sys.argv[2], 'half').touch()\n"
        "print(os.getpid(), flush=True)\ntime.sleep(60)"
    )
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    command = [sys.executable, "-c", ENDLESS, str(models_dir), str(tmp_path / "base"), str(tmp_path / "m.gguf")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
    source = model_folder(tmp_path / "m")
    with pytest.raises(ModelError, match="another process"):
        importer.add("m", str(source), copy=True)
    assert (models_dir / ".import" / "m" / "half").exists()
    os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while True:
        try:
            importer.add("m", str(source), copy=True)
            break
        except ModelError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not (models_dir / "m" / "half").exists()


@pytest.mark.e2e
@pytest.mark.many
def test_smollm2_is_converted_and_speaks(tmp_path: Path, settings: Any) -> None:
    """The real package, the real conversion; transformers loads what came of it."""
    from models_registry.catalog import demo

    settings.VBS_DATA_DIR = tmp_path
    steps: list[str] = []
    model, new = demo.add("smollm2", steps.append)
    assert new
    assert any("dequantizing" in step for step in steps)
    assert (model.task, model.context_length, model.size_bytes) == ("chat", 2048, 269_060_552)

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.source)
    loaded = AutoModelForCausalLM.from_pretrained(model.source)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    tokens = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        said = loaded.generate(tokens, max_new_tokens=12, do_sample=False)[0, tokens.shape[1] :]
    assert "Paris" in tokenizer.decode(said)

    again, new = demo.add("smollm2", steps.append)
    assert (again.pk, new) == (model.pk, False)
