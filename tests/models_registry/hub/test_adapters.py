"""LoRA adapters of a hub: registered under a base, fetched, and served only if that base's engine can."""

import random
import signal
import time
import uuid
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now
from django.test import Client

from models_registry.catalog import add, made_folders, partial_files, remove, rules
from models_registry.catalog.folders import ModelError, Needed
from models_registry.fit import judge
from models_registry.gpu.adapters import options
from models_registry.hub import download_run, downloads
from models_registry.hub.scripted import Fault
from models_registry.models import Download, DownloadState, Model, ModelState
from tests.adapters import adapter_folder
from tests.amount import few
from tests.models_registry.api.test_registry import MODELS, Api
from tests.models_registry.catalog.test_add import model_folder
from tests.models_registry.cli.test_model_command import run
from tests.models_registry.hub.fetched import is_nowhere, is_whole, killed_in, turn
from tests.models_registry.hub.test_kills import worker
from tests.models_registry.hubs import repository
from tests.models_registry.pages.test_models import HTMX

pytestmark = pytest.mark.django_db
SHAPES = {"model.layers.0.self_attn.q_proj.weight": [64, 8]}


@pytest.fixture
def base(tmp_path):
    """With one weight of 64 × 8, which an adapter can be told to fit or not."""
    made = adapter_folder(tmp_path / "shapes", names=SHAPES) / "adapter_model.safetensors"
    folder = model_folder(tmp_path / "base", **{"model.safetensors": made.read_bytes()})
    return add.add("base", str(folder), engine_args={"max-lora-rank": 16})


def on_hub(served, name="org/lora", files=(), without=(), **adapter):
    """Put an adapter there, with what people leave beside one; what of it is to be fetched."""
    folder = adapter_folder(served.folder / name, **{"inner": 8, "outer": 64, "rank": 8} | adapter)
    for path in ("README.md", "LICENSE"):
        (folder / path).write_text(path)
    for path in without:
        (folder / path).unlink()
    wanted = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in ("tokenizer.json", "optimizer.pt", "checkpoint-10/adapter_model.safetensors", *files):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(path)
    return wanted


def fetched(model):
    downloads.start(model)
    return turn(model)


# Registering


def test_a_draft_has_what_its_base_has(base):
    model = downloads.add("a", "org/lora", base=base, revision="v1", notes="n")
    model.refresh_from_db()
    assert (model.state, model.base, model.kind, model.task) == (ModelState.DRAFT, base, "vllm", "chat")
    assert (model.hub_id, model.hub_revision, model.engine_args, model.lora_rank) == ("org/lora", "v1", {}, None)
    with pytest.raises(Needed, match="adapter a"):
        remove.remove(base)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"task": "chat"}, "the task of its base"),
        ({"engine_args": {"seed": 1}}, "the options of its base"),
        ({"allow_pickle": True}, "allow_pickle is for a model"),
        ({"trust_remote_code": True}, "trust_remote_code is for a model"),
        ({"file": "m.gguf"}, "'m.gguf' is a whole model"),
    ],
)
def test_what_an_adapter_has_from_its_base_cannot_be_given(base, given, words):
    with pytest.raises(ModelError, match=words):
        downloads.add("a", "org/lora", base=base, **given)
    assert Model.objects.get() == base


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "remote", "source": "http://far/v1"}, "on a remote server"),
        ({"kind": "scripted", "task": "embedding"}, "is for embedding"),
        ({"hub_id": "o/n", "state": "draft"}, r"not here \(draft\): fetch it, then add its adapter"),
        ({"hub_id": "o/n", "state": "downloading"}, r"not here \(downloading\)"),
        ({"hub_id": "o/n", "state": "failed"}, r"not here \(failed\)"),
    ],
)
def test_what_cannot_be_a_base(served, fields, words):
    on_hub(served)
    other = Model.objects.create(name="other", **fields)
    with pytest.raises(ModelError, match=words):
        downloads.add("a", "org/lora", base=other)
    with pytest.raises(ModelError, match=words):
        downloads.plan(Model(name="a", hub_id="org/lora", base=other))


def test_an_adapter_of_an_adapter(base):
    adapter = downloads.add("a", "org/lora", base=base)
    with pytest.raises(ModelError, match="a is an adapter"):
        downloads.add("b", "org/lora", base=adapter)


def test_an_adapter_that_is_not_here_changes_nothing_for_its_base(served):
    """Its engine would be started anew for nothing."""
    on_hub(served)
    base = add.add("base", "scripted:")
    model = downloads.add("a", "org/lora", base=base)
    assert options(base, ["a"]) == {}
    fetched(model)
    assert options(base, ["a"])["enable-lora"] is True


# Planning


def test_a_plan_takes_the_adapter_alone_and_says_what_it_was_made_for(served, base):
    wanted = on_hub(served, base_model_name_or_path="their/base")
    plan = downloads.plan(downloads.add("a", "org/lora", base=base))
    assert {file.path: file.size for file in plan.files} == {path: len(data) for path, data in wanted.items()}
    assert plan.bytes == sum(map(len, wanted.values()))
    assert plan.made_for == "their/base"


@pytest.mark.parametrize(("named", "said"), [(5, ""), (None, ""), ("", ""), ("a\nb", "a\\nb"), ("x" * 999, "x" * 200)])
def test_what_an_adapter_says_of_its_base_may_be_anything(served, base, named, said):
    on_hub(served, base_model_name_or_path=named)
    assert downloads.plan(Model(name="a", hub_id="org/lora", base=base)).made_for == said


def test_a_plan_does_not_need_the_config(served, base):
    on_hub(served, base_model_name_or_path="their/base")
    served.faults = [Fault("status", "adapter_config.json", times=-1, status=403)]
    plan = downloads.plan(Model(name="a", hub_id="org/lora", base=base))
    assert (plan.made_for, len(plan.files)) == ("", 4)


@pytest.mark.parametrize(
    ("without", "files", "words"),
    [
        (["adapter_config.json"], [], "not a LoRA adapter: leave out the base"),
        (["adapter_model.safetensors"], ["adapter_model.bin"], r"pickle \(adapter_model.bin\)"),
        (["adapter_model.safetensors"], [], "no adapter_model.safetensors"),
    ],
)
def test_a_repository_without_an_adapter_that_could_be_used(served, base, without, files, words):
    on_hub(served, without=without, files=files)
    model = downloads.add("a", "org/lora", base=base)
    for act in (downloads.plan, downloads.start):
        with pytest.raises(ModelError, match=words):
            act(model)
    assert Model.objects.get(name="a").state == ModelState.DRAFT


def test_a_whole_model_with_a_base(served, base):
    repository(served)
    with pytest.raises(ModelError, match="not a LoRA adapter: leave out the base"):
        downloads.start(downloads.add("a", "org/tiny", base=base))


@pytest.mark.parametrize("files", [[], ["config.json"], ["config.json", "training_args.bin"]])
@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_without_a_base(served, weights, files):
    """Some trainers leave the config.json of the base beside it."""
    on_hub(served, without=["adapter_model.safetensors"], files=[weights, *files])
    with pytest.raises(ModelError, match="is a LoRA adapter, not a whole model: add it with its base"):
        downloads.start(downloads.add("a", "org/lora"))


def test_whether_it_fits_is_asked_of_the_base(served, base):
    on_hub(served)
    with pytest.raises(ModelError, match="a is an adapter of base: ask whether that model fits"):
        judge.judge(downloads.add("a", "org/lora", base=base), ask_hub=True)


# Fetching


def test_an_adapter_is_fetched_and_ready(served, base):
    wanted = on_hub(served)
    model = downloads.add("org/a", "org/lora", base=base)
    assert fetched(model).state == DownloadState.DONE
    is_whole(model, wanted)
    assert (model.lora_rank, model.size_bytes) == (8, len(wanted["adapter_model.safetensors"]))
    assert (model.task, model.context_length, model.license) == (base.task, base.context_length, "apache-2.0")
    assert model.revision == served.commit("org/lora")
    assert model.spec() == base.spec()
    assert model.adapter().path == model.source
    folder = Path(model.source)
    remove.remove(model, files=True)
    assert not folder.exists() and Path(base.source).exists()


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ({"inner": 16}, "adapter of another base"),
        ({"rank": 32}, "max-lora-rank 16: raise or remove that option"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"peft_type": "IA3"}, "only LORA can be served"),
    ],
)
def test_an_adapter_that_cannot_be_served_fails_with_its_reason(served, base, adapter, words):
    on_hub(served, **adapter)
    model = downloads.add("a", "org/lora", base=base)
    download = fetched(model)
    assert (download.state, model.state) == (DownloadState.FAILED, ModelState.FAILED)
    assert words in model.reason == download.reason
    is_nowhere(model)
    remove.remove(model)
    assert not partial_files.folder_of("a").exists()


def test_an_adapter_that_failed_for_an_option_of_its_base_is_ready_when_that_is_gone(served, base):
    wanted = on_hub(served, rank=32)
    model = downloads.add("a", "org/lora", base=base)
    fetched(model)
    add.edit(base, engine_args={})
    asked = len(served.asked)
    downloads.retry(model)
    turn(model)
    is_whole(model, wanted)
    assert not [one for one in served.asked[asked:] if one.path.endswith("safetensors")], "what had come was kept"


def test_the_base_is_changed_at_the_last_moment(served, base, monkeypatch):
    """Between the look at the adapter and its being ready."""
    on_hub(served, rank=16)
    model = downloads.add("a", "org/lora", base=base)
    finish = download_run.DownloadRun._finish

    def change(self, found):
        add.edit(base, engine_args={"max-lora-rank": 8})
        finish(self, found)

    monkeypatch.setattr(download_run.DownloadRun, "_finish", change)
    fetched(model)
    assert model.state == ModelState.FAILED and "max-lora-rank 8" in model.reason
    is_nowhere(model)


def test_what_the_base_is_when_the_adapter_is_ready_counts(served, base):
    on_hub(served)
    model = downloads.add("a", "org/lora", base=base)
    downloads.start(model)
    add.edit(base, task="completion", engine_args={"max-model-len": 100})
    turn(model)
    assert (model.state, model.task, model.context_length) == (ModelState.READY, "completion", 100)


def test_cancelled_and_fetched_again(served, base):
    wanted = on_hub(served)
    model = downloads.add("a", "org/lora", base=base)
    downloads.start(model)
    downloads.cancel(model)
    assert (model.state, model.base) == (ModelState.DRAFT, base)
    fetched(model)
    is_whole(model, wanted)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(made_folders, "make"), (rules, "examine_adapter"), (download_run.DownloadRun, "_finish")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_killed_at_each_step(served, base, monkeypatch, owner, name, after):
    wanted = on_hub(served)
    model = downloads.add("a", "org/lora", base=base)
    downloads.start(model)
    with killed_in(monkeypatch, owner, name, after):
        turn(model)
    model.refresh_from_db()
    if (name, after) != ("_finish", True):
        assert (model.state, model.source) == ("downloading", "")
        turn(model)
    downloads.sweep()
    is_whole(model, wanted)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("seed", few(range(2)))
def test_killed_again_and_again(served, base, tmp_path, seed):
    generator = random.Random(seed)
    wanted = on_hub(served, names={f"base_model.model.m{n}.lora_A.weight": [8, 20_000] for n in range(3)})
    model = downloads.add("a", "org/lora", base=add.add("scripted", "scripted:"))
    downloads.start(model)
    served.rate = 1_000_000
    for _ in range(3):
        with worker(model, served, tmp_path) as process:
            assert process.stdout.readline() == b"ready\n", process.stderr.read()
            time.sleep(instant := generator.uniform(0.05, 1.0))
            process.send_signal(signal.SIGKILL)
        print(f"kill -9 after {instant:.2f} s: {Download.objects.get().bytes_done:,} bytes")
        Download.objects.filter(state="running").update(leased_until=Now())
    served.rate = 0
    download_run.run(model.pk, uuid.uuid4())
    downloads.sweep()
    model.refresh_from_db()
    is_whole(model, wanted)
    assert model.lora_rank == 8


# Over the API, on the page, on the command line


def test_added_and_fetched_over_the_api(served, base):
    wanted = on_hub(served)
    api = Api(operator=True)
    given = {"name": "a", "hub_id": "org/lora", "base": "base", "fetch": True}
    made = api("POST", MODELS, given)
    assert (made["state"], made["parent"], made["download"]["state"]) == ("downloading", "base", "queued")
    turn(Model.objects.get(name="a"))
    found = api("GET", f"{MODELS}/a")
    assert (found["state"], found["lora_rank"], found["parent"]) == ("unchecked", 8, "base")
    assert api("GET", f"{MODELS}/base")["adapters"] == ["a"]
    is_whole(Model.objects.get(name="a"), wanted)
    assert api("DELETE", f"{MODELS}/a?files=true")["deleted"]
    assert not made_folders.path_of("a").exists()


def test_what_is_wrong_is_said_over_the_api(served, base):
    on_hub(served)
    repository(served)
    api = Api(operator=True)
    for given, words in (
        ({"hub_id": "org/tiny", "base": "base"}, "not a LoRA adapter"),
        ({"hub_id": "org/lora"}, "add it with its base"),
        ({"hub_id": "org/lora", "base": "base", "task": "chat"}, "the task of its base"),
        ({"hub_id": "org/lora", "base": "base", "file": "x.gguf"}, "is a whole model"),
    ):
        assert words in api("POST", MODELS, {"name": "a", "fetch": True} | given, 400)["message"]
    assert (
        "does not exist" in api("POST", MODELS, {"name": "a", "hub_id": "org/lora", "base": "nobody"}, 404)["message"]
    )
    assert Model.objects.get() == base


def test_a_plan_over_the_api(served, base):
    on_hub(served, base_model_name_or_path="their/base")
    downloads.add("a", "org/lora", base=base)
    assert Api(operator=True)("GET", f"{MODELS}/a/plan")["made_for"] == "their/base"


def test_added_on_the_page(served, base, settings):
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }
    on_hub(served, base_model_name_or_path="<b>their/base")
    add.add("far", "http://far/v1")
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    form = client.post("/models/read", {"text": "org/lora"}, headers=HTMX).content.decode()
    assert f'<option value="{base.pk}">base</option>' in form and ">far<" not in form
    given = {"on_hub": "True", "name": "a", "source": "org/lora", "base": base.pk, "engine_args": ""}
    plan = client.post("/models/plan", given, headers=HTMX).content.decode()
    assert "&lt;b&gt;their/base" in plan and "is served by the engine of base" in plan
    without = client.post("/models/plan", given | {"base": ""}, headers=HTMX).content.decode()
    assert "add it with its base" in without
    assert client.post("/models/add", given | {"base": ""}, headers=HTMX).status_code == 422
    assert client.post("/models/add", given).status_code == 302
    model = Model.objects.get(name="a")
    assert (model.state, model.base) == (ModelState.DOWNLOADING, base)
    turn(model)
    page = client.get("/models/").content.decode()
    assert "adapter of base" in page and "downloading" not in page


def test_added_and_planned_on_the_command_line(served, base):
    on_hub(served, base_model_name_or_path="their/base")
    run("add", "a", "--hub", "org/lora", "--base", "base")
    model = Model.objects.get(name="a")
    assert (model.base, model.state) == (base, ModelState.DRAFT)
    out, _ = run("fetch", "a", "--plan")
    assert "adapter_model.safetensors" in out and "tokenizer" not in out
    assert "an adapter, made for their/base; its base here is base" in out
    fetched(model)
    assert f"{model.source}" in run("list")[0]
