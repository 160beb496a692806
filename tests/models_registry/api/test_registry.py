"""/v1/registry: what operators can do with models over the API, what other keys cannot, and how each is refused."""

import itertools
import json

import pytest
from django.test import Client
from django.utils import timezone

from models_registry import workloads
from models_registry.catalog import remove
from models_registry.gpu.tuning.candidates import unmeasured
from models_registry.hub import downloads, tokens
from models_registry.models import Alias, Download, Measurement, Model, Operation, Worker
from tests.adapters import adapter_folder
from tests.models_registry.catalog.test_add import model_folder
from vbs.accounts.models import ApiKey, Project

MODELS = "/v1/registry/models"


class Api:
    """A client with a key. Each call gives the status and the body."""

    def __init__(self, **key):
        secret = ApiKey.objects.issue(Project.objects.get_or_create(name="project")[0], "laptop", **key)[1]
        self.client = Client(headers={"Authorization": f"Bearer {secret}"})

    def __call__(self, method, path, body=None, status=200):
        content = "" if body is None else json.dumps(body)
        answer = self.client.generic(method, path, content, content_type="application/json" if content else "")
        found = answer.json()
        assert answer.status_code == status, found
        return found["error"] if status >= 400 else found


@pytest.fixture
def api(db):
    return Api(operator=True)


@pytest.fixture
def plain(db):
    return Api()


@pytest.fixture(autouse=True)
def folders(tmp_path, settings):
    """A root of models. And no hub: nobody listens at that port."""
    settings.VBS_DATA_DIR, settings.MODELS_DIR = tmp_path / "data", tmp_path / "data" / "models"
    settings.VBS_MODEL_ROOTS = [str(tmp_path / "root")]
    settings.VBS_HUB_URL, settings.HF_TOKEN = "http://127.0.0.1:9", ""
    return tmp_path / "root"


# Adding


def test_a_folder(api, folders):
    given = {"name": "org/tiny", "source": str(model_folder(folders / "tiny")), "notes": "n", "license": "mit"}
    made = api("POST", MODELS, given | {"engine_args": {"max_model_len": "1k"}})
    assert (made["id"], made["state"], made["task"], made["kind"]) == ("org/tiny", "unchecked", "chat", "vllm")
    assert made["engine_args"] == {"max-model-len": 1000} and made["context_length"] == 1000
    assert (made["source"], made["license"], made["notes"]) == (given["source"], "mit", "n")
    assert made["refused"] == [] and made["download"] is None and made["own_code"] is False
    listed = api("GET", MODELS)["data"]
    assert listed == [api("GET", f"{MODELS}/org/tiny")] == [{key: made[key] for key in listed[0]}]


def test_an_adapter_a_server_and_a_scripted_model(api, folders):
    api("POST", MODELS, {"name": "base", "source": "scripted:"})
    made = api("POST", MODELS, {"name": "a", "source": str(adapter_folder(folders / "a", rank=8)), "base": "base"})
    assert (made["parent"], made["lora_rank"]) == ("base", 8)
    assert api("GET", f"{MODELS}/base")["adapters"] == ["a"]
    made = api("POST", MODELS, {"name": "r", "source": "http://8.8.8.8/v1", "remote_name": "x", "task": "embedding"})
    assert (made["kind"], made["remote_name"], made["task"]) == ("remote", "x", "embedding")
    changed = api("PATCH", f"{MODELS}/r", {"pool": ["http://1.1.1.1/v1"]})
    assert made["pool"] == [] and changed["pool"] == ["http://1.1.1.1/v1"]
    assert "not a public address" in api("PATCH", f"{MODELS}/r", {"pool": ["http://127.0.0.1/v1"]}, 400)["message"]
    api("PATCH", f"{MODELS}/r", {"pool": "http://1.1.1.1/v1"}, 400)
    error = api("POST", MODELS, {"name": "h", "hub_id": "o/n", "pool": ["http://1.1.1.1/v1"]}, 400)
    assert "pool does not apply to a model of the hub" in error["message"]


def test_a_model_of_the_hub_is_a_draft(api):
    tokens.keep("mine", "hf_secret")
    given = {"name": "m", "hub_id": "o/n", "revision": "v1", "file": "x.gguf", "token": "mine"}
    made = api("POST", MODELS, given)
    assert (made["state"], made["hub_id"], made["hub_revision"], made["hub_file"]) == ("draft", "o/n", "v1", "x.gguf")
    assert made["hub_token"] == "mine" and "hf_secret" not in json.dumps(made)


def test_both_or_nothing_when_it_is_to_be_fetched_too(api):
    error = api("POST", MODELS, {"name": "m", "hub_id": "o/n", "fetch": True}, 400)
    assert "http://127.0.0.1:9" in error["message"] and not Model.objects.exists()


def test_a_pasted_command(api, folders):
    folder = model_folder(folders / "Tiny")
    text = f"vllm serve {folder} --seed 7 --trust-remote-code"
    proposal = api("POST", "/v1/registry/paste", {"text": text})
    assert (proposal["name"], proposal["source"], proposal["hub_id"]) == ("tiny", str(folder), None)
    assert proposal["engine_args"] == {"seed": 7}
    (refused,) = proposal["refused"]
    assert refused["option"] == "trust-remote-code" and "trust_remote_code" in refused["reason"]
    made = api("POST", MODELS, {"paste": text, "engine_args": {"seed": 8}})
    assert (made["id"], made["engine_args"], made["trust_remote_code"]) == ("tiny", {"seed": 8}, False)
    assert made["refused"] == proposal["refused"]
    made = api("POST", MODELS, {"paste": "https://huggingface.co/o/n/tree/dev", "name": "other"})
    assert (made["id"], made["hub_id"], made["hub_revision"]) == ("other", "o/n", "dev")


def test_code_that_comes_with_a_model_is_shown(api, folders):
    config = {"architectures": ["LlamaForCausalLM"], "auto_map": {"AutoModel": "code.Model"}}
    folder = model_folder(folders / "m", **{"config.json": config})
    made = api("POST", MODELS, {"name": "m", "source": str(folder)})
    assert (made["own_code"], made["trust_remote_code"]) == (True, False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "Give one of source, hub_id, paste"),
        ({"name": "m", "source": "scripted:", "hub_id": "o/n"}, "Give one of"),
        ({"source": "scripted:"}, "'name'"),
        ({"name": "m", "source": "scripted:", "trust": True}, "Unknown parameter: 'trust'"),
        ({"name": "m", "source": "scripted:", "allow_pickle": "yes"}, "must be true or false, not a string"),
        ({"name": 5, "source": "scripted:"}, "must be a string, not a number"),
        ({"name": "a\0", "source": "scripted:"}, "NUL"),
        ({"name": "m/load", "source": "scripted:"}, "the API's own addresses end in"),
        ({"name": "m", "source": "scripted:", "engine_args": []}, "must be an object, not an array"),
        ({"name": "m", "source": "scripted:", "engine_args": {"x": "\0"}}, "NUL"),
        ({"name": "m", "source": "scripted:", "task": "sing"}, "unknown task 'sing'"),
        ({"name": "m", "source": "scripted:", "revision": "main"}, "revision applies only to a model of the hub"),
        ({"name": "m", "hub_id": "o/n", "remote_name": "b"}, "remote_name does not apply to a model of the hub"),
        ({"name": "m", "hub_id": "../x"}, "is not the id of a model of the hub"),
        ({"name": "m", "hub_id": "o/n", "token": "nobody's"}, "there is no token"),
        ({"name": "m", "source": "/etc"}, "not in a folder that models may come from"),
        ({"name": "m", "source": "http://169.254.169.254/v1"}, "not a public address"),
        ({"name": "m", "source": "http://localhost/v1"}, "not a public address"),
        ({"paste": "what?"}, "no model is named here"),
        ({"paste": "http://127.0.0.1:8000/v1"}, "not a public address"),
        ({"paste": "/etc"}, "not in a folder"),
    ],
)
def test_what_cannot_be_added(api, given, words):
    error = api("POST", MODELS, given, 400)
    assert words in error["message"] and error["type"] == "invalid_request_error"
    assert not Model.objects.exists()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"model.safetensors": None, "pytorch_model.bin": b"1"}, "pickles only"),
        ({"model.safetensors": b"\xff" * 50}, "damaged or not complete"),
        ({"model.safetensors.index.json": {"weight_map": {"a": "two.safetensors"}}}, "lacks 1 of its weight files"),
        ({"config.json": None}, "no config.json"),
        ({"tokenizer.json": None, "tokenizer_config.json": None}, "no tokenizer"),
    ],
)
def test_a_folder_that_no_engine_could_load(api, folders, files, words):
    folder = model_folder(folders / "m", **files)
    assert words in api("POST", MODELS, {"name": "m", "source": str(folder)}, 400)["message"]
    assert not Model.objects.exists()


def test_a_link_out_of_a_root(api, folders, tmp_path):
    folders.mkdir()
    (folders / "m").symlink_to(model_folder(tmp_path / "outside"))
    error = api("POST", MODELS, {"name": "m", "source": str(folders / "m")}, 400)
    assert "not in a folder that models may come from" in error["message"] and not Model.objects.exists()


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ({"inner": 16}, "adapter of another base"),
        ({"use_dora": True}, "DoRA"),
        ({"rank": 32}, "max-lora-rank 16"),
        ({"bias": "all"}, "biases"),
    ],
)
def test_an_adapter_that_cannot_be_served(api, folders, adapter, words):
    shapes = {"model.layers.0.self_attn.q_proj.weight": {"dtype": "U8", "shape": [64, 8], "data_offsets": [0, 512]}}
    header = json.dumps(shapes).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(512)
    folder = model_folder(folders / "base", **{"model.safetensors": weights})
    api("POST", MODELS, {"name": "base", "source": str(folder), "engine_args": {"max-lora-rank": 16}})
    source = str(adapter_folder(folders / "a", **{"inner": 8, "outer": 64, "rank": 8} | adapter))
    assert words in api("POST", MODELS, {"name": "a", "source": source, "base": "base"}, 400)["message"]
    assert [one["id"] for one in api("GET", MODELS)["data"]] == ["base"]


def test_a_name_that_is_taken(api):
    api("POST", MODELS, {"name": "m", "source": "scripted:"})
    error = api("POST", MODELS, {"name": "m", "source": "scripted:"}, 409)
    assert (error["type"], error["code"]) == ("conflict_error", "model_exists")
    api("PUT", "/v1/registry/aliases/@best", {"model": "m"})
    assert api("PUT", "/v1/registry/aliases/m", {"model": "m"}, 409)["code"] == "model_exists"


def test_options_that_are_too_deep_or_too_large(api):
    deep = {}
    for _ in range(500):
        deep = {"x": deep}
    for options in (deep, {"x": "y" * 300_000}):
        error = api("POST", MODELS, {"name": "m", "source": "scripted:", "engine_args": options}, 400)
        assert error["param"] == "engine_args"


# Changing and removing


def test_edit(api):
    api("POST", MODELS, {"name": "o/m", "source": "scripted:", "notes": "old"})
    changed = api("PATCH", f"{MODELS}/o/m", {"notes": "new", "engine_args": {"latency-ms": 5}})
    assert (changed["notes"], changed["engine_args"], changed["task"]) == ("new", {"latency-ms": 5}, "chat")
    assert api("PATCH", f"{MODELS}/o/m", {}) == changed
    for given in ({"name": "x"}, {"source": "/x"}, {"task": None}, {"task": "sing"}, {"engine_args": {"uds": "x"}}):
        api("PATCH", f"{MODELS}/o/m", given, 400)
    assert api("GET", f"{MODELS}/o/m") == changed


def test_a_token_is_given_and_taken_back(api):
    tokens.keep("mine", "hf_secret")
    api("POST", MODELS, {"name": "m", "hub_id": "o/n"})
    assert api("PATCH", f"{MODELS}/m", {"token": "mine"})["hub_token"] == "mine"
    assert api("PATCH", f"{MODELS}/m", {"token": ""})["hub_token"] is None
    assert "no token 'theirs'" in api("PATCH", f"{MODELS}/m", {"token": "theirs"}, 400)["message"]
    api("POST", MODELS, {"name": "s", "source": "scripted:"})
    assert "not a model of the hub" in api("PATCH", f"{MODELS}/s", {"token": "mine"}, 400)["message"]


def test_an_empty_form_changes_nothing(api):
    model = Model.objects.create(name="m", source="/x", trust_remote_code=True)
    api.client.patch(f"{MODELS}/m", "", content_type="application/x-www-form-urlencoded")
    model.refresh_from_db()
    assert model.trust_remote_code


def test_remove_looks_first(api, monkeypatch):
    api("POST", MODELS, {"name": "m", "source": "scripted:"})
    api("PUT", "/v1/registry/aliases/@best", {"model": "m"})
    would = api("DELETE", f"{MODELS}/m?dry_run=true&files=true")
    assert would == {
        "id": "m", "object": "registry.removal", "deleted": False,
        "folder": None, "files": 0, "bytes": 0, "needed_by": ["alias @best"],
    }  # fmt: skip
    error = api("DELETE", f"{MODELS}/m", status=409)
    assert error["code"] == "model_needed" and "alias @best" in error["message"]
    api("DELETE", "/v1/registry/aliases/@best")
    api("DELETE", f"{MODELS}/m?dry_run=maybe", status=400)
    assert api("DELETE", f"{MODELS}/m")["deleted"] is True
    assert api("GET", f"{MODELS}/m", status=404)["code"] == "model_not_found"


def test_remove_with_files(api, tmp_path, settings):
    from models_registry.catalog import add

    settings.VBS_MODEL_ROOTS = []
    model = add.add("m", str(model_folder(tmp_path / "m")), copy=True)
    would = api("DELETE", f"{MODELS}/m?dry_run=true&files=true")
    assert would["folder"] == model.source and would["bytes"] > 0 and would["files"] == 5
    assert api("DELETE", f"{MODELS}/m?files=true") == would | {"deleted": True}
    assert not remove.leftovers() and not (settings.MODELS_DIR / "m").exists()


def test_an_adapter_is_deleted_as_at_openai(api, folders, monkeypatch):
    api("POST", MODELS, {"name": "base", "source": "scripted:"})
    api("POST", MODELS, {"name": "o/a", "source": str(adapter_folder(folders / "a")), "base": "base"})
    error = api("DELETE", "/v1/models/base", status=400)
    assert "DELETE /v1/registry/models/base" in error["message"]
    monkeypatch.setattr(workloads, "needs", lambda names: [f"batch_1 waits for {names[0]}"])
    assert "batch_1 waits for o/a" in api("DELETE", "/v1/models/o/a", status=409)["message"]
    monkeypatch.setattr(workloads, "needs", lambda names: [])
    assert api("DELETE", "/v1/models/o/a") == {"id": "o/a", "object": "model", "deleted": True}
    assert api("DELETE", "/v1/models/o/a", status=404)["code"] == "model_not_found"
    assert Model.objects.get().name == "base"


# What is done with a model


@pytest.mark.parametrize("kind", ["load", "unload", "test", "benchmark", "tune"])
def test_operations_are_asked_for_and_told_of(api, kind):
    api("POST", MODELS, {"name": "o/m", "source": "scripted:"})
    made = api("POST", f"{MODELS}/o/m/{kind}", status=202)
    assert (made["kind"], made["model"], made["state"], made["asked_by"]) == (kind, "o/m", "queued", "project (laptop)")
    assert api("POST", f"{MODELS}/o/m/{kind}", {"now": True}, 202)["priority"] > 100
    assert api("GET", f"/v1/registry/operations/{made['id']}")["log"] == ""
    (listed,) = api("GET", "/v1/registry/operations?state=open&model=o/m")["data"]
    assert listed["id"] == made["id"] and listed["log"] is None
    assert api("POST", f"/v1/registry/operations/{made['id']}/cancel")["state"] == "cancelled"
    assert (
        "its state is 'cancelled'" in api("POST", f"/v1/registry/operations/{made['id']}/cancel", status=409)["message"]
    )
    assert api("GET", "/v1/registry/operations?state=open")["data"] == []


def test_options_of_an_operation(api):
    api("POST", MODELS, {"name": "m", "source": "scripted:"})
    made = api("POST", f"{MODELS}/m/test", {"options": {"prompt": "Hi", "max_tokens": 5}, "priority": 3}, 202)
    assert made["options"]["prompt"] == "Hi" and made["priority"] == 3
    for given in ({"options": {"prompt": 5}}, {"options": {"x": 1}}, {"options": []}, {"priority": 101}, {"when": 1}):
        api("POST", f"{MODELS}/m/test", given, 400)
    assert Operation.objects.count() == 1


def tuned(model, **changes):
    """A tuning that has found four places to be twice as fast as two."""
    slow, fast = (unmeasured(setting, "") | {"requests": 9} for setting in ({}, {"max-num-seqs": 4}))
    result = {"own": {"max-num-seqs": 2}, "candidates": [slow, fast], "best": {"max-num-seqs": 4}, "gain": 2.0}
    result |= {"kept": False} | changes
    return Operation.objects.create(model=model, kind="tune", state="succeeded", result=result)


def test_the_fastest_setting_is_kept_when_somebody_says_so(api, plain):
    model = Model.objects.create(name="m", kind="scripted", engine_args={"max-num-seqs": 2})
    path = f"/v1/registry/operations/{tuned(model).pk}/keep"
    plain("POST", path, None, 403)
    assert api("POST", path)["result"]["kept"] is True
    assert Model.objects.get().engine_args == {"max-num-seqs": 4}
    assert api("POST", path)["result"]["kept"] is True, "it is so already"
    for other, said in ((tuned(model), "were changed since"), (tuned(model, best={}), "found no setting")):
        assert said in api("POST", f"/v1/registry/operations/{other.pk}/keep", status=400)["message"]
    assert (
        "there is no file 'file-x'" in api("POST", f"{MODELS}/m/tune", {"options": {"file": "file-x"}}, 400)["message"]
    )


def test_operations_come_in_pages(api):
    model = Model.objects.create(name="m", kind="scripted")
    made = sorted(Operation.objects.create(model=model, kind="load").pk for _ in range(5))[::-1]
    first = api("GET", "/v1/registry/operations?limit=2")
    assert [one["id"] for one in first["data"]] == made[:2] and first["has_more"]
    rest = api("GET", f"/v1/registry/operations?limit=100&after={first['last_id']}")
    assert [one["id"] for one in rest["data"]] == made[2:] and not rest["has_more"]
    for query in ("limit=101", "limit=0", "after=nobody", "state=x"):
        api("GET", f"/v1/registry/operations?{query}", status=400)
    api("GET", "/v1/registry/operations?model=nobody", status=404)
    for path in ("nobody", "%00"):
        assert api("GET", f"/v1/registry/operations/{path}", status=404)["code"] == "operation_not_found"


def test_a_download_is_steered(api):
    api("POST", MODELS, {"name": "o/m", "hub_id": "o/n"})
    for verb in ("pause", "resume", "cancel", "retry"):
        assert "no download" in api("POST", f"{MODELS}/o/m/{verb}", status=400)["message"]
    for answer in (api("POST", f"{MODELS}/o/m/fetch", status=400), api("GET", f"{MODELS}/o/m/plan", status=400)):
        assert "http://127.0.0.1:9" in answer["message"]
    model = Model.objects.get()
    Model.objects.update(state="downloading")
    Download.objects.create(model=model, state="running", bytes_total=10, bytes_done=4, files=[{"path": "x"}])
    assert api("GET", f"{MODELS}/o/m")["download"]["bytes_done"] == 4
    for verb, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        done = api("POST", f"{MODELS}/o/m/{verb}")
        assert (done["object"], done["model"], done["state"]) == ("registry.download", "o/m", state)
    assert api("GET", f"{MODELS}/o/m")["state"] == "draft"


def test_a_plan(api, monkeypatch):
    api("POST", MODELS, {"name": "m", "hub_id": "o/n"})
    file = downloads.HubFile("model.safetensors", 100, sha256="0" * 64)
    plan = downloads.DownloadPlan("abc", [file], 100, 20, 0, 5, 2**40, "mit", True)
    monkeypatch.setattr(downloads, "plan", lambda model: plan)
    found = api("GET", f"{MODELS}/m/plan")
    assert found["files"] == [{"path": "model.safetensors", "size": 100}] and found["gated"] and found["fits"]
    assert (found["bytes"], found["present"], found["need"], found["promised"]) == (100, 20, 80, 5)


CONFIG = {
    "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
    "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 2048,
}  # fmt: skip


def test_fit(api, folders):
    folder = model_folder(folders / "m", **{"config.json": CONFIG})
    api("POST", MODELS, {"name": "o/m", "source": str(folder)})
    found = api("GET", f"{MODELS}/o/m/fit?context=512&sequences=4")
    assert found["model"] == "o/m" and found["context"] <= 2048 and found["text"]
    # 2 (key and value) · 2 layers · 4 heads · 16 values · 2 bytes, for 512 tokens of 4 sequences; or what is set aside
    assert found["need"]["cache"] >= 2 * 2 * 4 * 16 * 2 * 512 * 4
    assert found["need"]["total"] >= found["need"]["weights"] > 0
    for query in ("context=0", "context=x", "sequences=-1", "context=99999999999"):
        api("GET", f"{MODELS}/o/m/fit?{query}", status=400)
    api("POST", MODELS, {"name": "s", "source": "scripted:"})
    assert "it takes no memory of this machine" in api("GET", f"{MODELS}/s/fit", status=400)["message"]


def test_measurements_come_in_pages(api, plain):
    model = Model.objects.create(name="o/m", kind="scripted")
    other = Model.objects.create(name="other", kind="scripted")
    rows = [Measurement.objects.create(model=model, kind="batch", requests=n, batch_id="batch_1") for n in range(5)]
    strange = Measurement.objects.create(model=other, kind="batch")
    first = api("GET", f"{MODELS}/o/m/measurements?limit=3")
    assert [one["requests"] for one in first["data"]] == [4, 3, 2] and first["last_id"] == str(rows[2].pk)
    rest = api("GET", f"{MODELS}/o/m/measurements?after={first['last_id']}")
    assert [one["requests"] for one in rest["data"]] == [1, 0] and not rest["has_more"]
    for after in ("x", "-1", "9" * 30, "1 ", "\u0661", strange.pk):
        api("GET", f"{MODELS}/o/m/measurements?after={after}", status=400)
    assert first["data"][0]["batch_id"] == "batch_1"
    Measurement.objects.create(model=model, kind="load", load_seconds=5)
    assert [one["kind"] for one in plain("GET", f"{MODELS}/o/m/measurements")["data"]] == ["load"], (
        "those of batches tell what other projects do"
    )


def test_aliases(api):
    for name in ("one", "two"):
        api("POST", MODELS, {"name": name, "source": "scripted:"})
    path = "/v1/registry/aliases/team/@best"
    assert api("GET", path.replace("@", ""), status=404)["code"] == "alias_not_found"
    api("PUT", "/v1/registry/aliases/team/best", {"model": "one"})
    assert api("PUT", "/v1/registry/aliases/team/best", {"model": "two"})["model"] == "two"
    assert [one["id"] for one in api("GET", "/v1/registry/aliases")["data"]] == ["team/best"]
    assert "is an alias of 'two'" in api("GET", f"{MODELS}/team/best", status=404)["message"]
    api("PUT", "/v1/registry/aliases/team/best", {"model": "three"}, 404)
    api("PUT", "/v1/registry/aliases/a..b", {"model": "one"}, 400)
    api("PUT", "/v1/registry/aliases/team/best", {}, 400)
    assert api("DELETE", "/v1/registry/aliases/team/best")["deleted"] is True
    assert not Alias.objects.exists()


# Who may


CHANGES = [
    ("POST", MODELS), ("PATCH", f"{MODELS}/m"), ("DELETE", f"{MODELS}/m"), ("DELETE", "/v1/models/m"),
    *(("POST", f"{MODELS}/m/{verb}") for verb in ("fetch", "pause", "resume", "cancel", "retry")),
    *(("POST", f"{MODELS}/m/{verb}") for verb in ("load", "unload", "test", "benchmark", "tune")),
    ("POST", "/v1/registry/operations/op_x/cancel"), ("POST", "/v1/registry/operations/op_x/keep"),
    ("PUT", "/v1/registry/aliases/a"),
    ("DELETE", "/v1/registry/aliases/a"), ("POST", "/v1/registry/demo-models/smollm2"),
    ("GET", "/v1/registry/leftovers"), ("DELETE", "/v1/registry/leftovers/models/x"), ("GET", "/v1/registry/fit"),
    ("PUT", "/v1/registry/tokens/t"), ("DELETE", "/v1/registry/tokens/t"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_a_key_that_is_no_operators_changes_nothing(plain, method, path):
    model = Model.objects.create(name="m", kind="scripted")
    Alias.objects.create(name="a", model=model)
    body = {"name": "n", "source": "scripted:", "model": "m", "notes": "x"}
    error = plain(method, path, body, 403)
    assert error["type"] == "permission_error" and "--operator" in error["message"]
    assert Model.objects.get().notes == "" and Alias.objects.exists() and not Operation.objects.exists()
    assert Client().generic(method, path).status_code == 401


def test_what_takes_a_shell_is_refused_to_an_operators_key(api, folders):
    kept = tokens.keep("t", "hf_0123456789")
    for method, body in (("PUT", {"token": "hf_other"}), ("DELETE", None)):
        assert "No key may keep or remove access tokens" in api(method, "/v1/registry/tokens/t", body, 403)["message"]
    kept.refresh_from_db()
    assert tokens.reveal(kept) == "hf_0123456789"
    given = {"name": "m", "source": str(model_folder(folders / "m")), "copy": True}
    assert "copied by a command on the server alone" in api("POST", MODELS, given, 400)["message"]
    given["copy"] = False
    assert "No key may allow code" in api("POST", MODELS, given | {"trust_remote_code": True}, 403)["message"]
    spoofed = api.client.put(
        "/v1/registry/tokens/t", '{"token": "x"}', "application/json", headers={"vbs.shell": "x", "Vbs-Shell": "x"}
    )
    assert spoofed.status_code == 403 and not Model.objects.exists()


def test_the_fit_of_a_folder_of_the_server(api, folders, tmp_path):
    folder = model_folder(folders / "m", **{"config.json": CONFIG})
    found = api("GET", f"/v1/registry/fit?folder={folder}&context=512")
    assert found["model"] == str(folder) and found["need"] == found["asked"] and found["resident"] is not None
    for given in ("m", str(folders / "nothing"), ""):
        assert api("GET", f"/v1/registry/fit?folder={given}", status=404)["code"] == "folder_not_found"
    elsewhere = model_folder(tmp_path / "elsewhere")
    assert "models may come from" in api("GET", f"/v1/registry/fit?folder={elsewhere}", status=400)["message"]


def test_every_key_may_look(plain):
    model = Model.objects.create(name="m", kind="scripted")
    Alias.objects.create(name="a", model=model)
    operation = Operation.objects.create(model=model, kind="load", asked_by="somebody else")
    for path in (
        "models",
        "models/m",
        "models/m/measurements",
        "operations",
        f"operations/{operation.pk}",
        "aliases/a",
    ):
        assert "somebody else" not in json.dumps(plain("GET", f"/v1/registry/{path}"))
    assert plain("POST", "/v1/registry/paste", {"text": "o/n"})["hub_id"] == "o/n"


def test_why_a_fit_cannot_be_said_names_no_folder(api, plain, folders):
    folder = model_folder(folders / "m")
    api("POST", MODELS, {"name": "m", "source": str(folder)})
    (folder / "config.json").unlink()
    assert str(folder) in api("GET", f"{MODELS}/m/fit", status=400)["message"]
    said = plain("GET", f"{MODELS}/m/fit", status=400)["message"]
    assert "has no config.json" in said and str(folders) not in said


def test_in_open_mode_everybody_is_an_operator(db, settings):
    settings.VBS_API_AUTH = "open"
    answer = Client().post(MODELS, {"name": "m", "source": "scripted:"}, content_type="application/json")
    assert answer.status_code == 200 and Model.objects.exists()


def test_an_operators_key_that_is_revoked(api):
    ApiKey.objects.get().revoke()
    api("GET", MODELS, status=401)
    api("POST", MODELS, {"name": "m", "source": "scripted:"}, 401)


# Lists


def test_more_models_need_no_more_queries(api, django_assert_max_num_queries):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    numbers = itertools.count()

    def more():
        model = Model.objects.create(name=f"m{next(numbers)}", kind="scripted", hub_token=tokens.keep("t", "hf_x"))
        Model.objects.create(name=f"{model.name}-a", kind="scripted", base=model)
        Alias.objects.create(name=f"{model.name}-alias", model=model)
        Download.objects.create(model=model, finished_at=timezone.now())
        Measurement.objects.create(model=model, kind="batch", requests=1, output_tokens=5, seconds=1)

    more()
    Worker.objects.create(cluster="gpu", hostname="h", pid=1, model_name="m0")
    with CaptureQueriesContext(connection) as few:
        (first, _) = api("GET", MODELS)["data"]
    assert first["loaded"] and first["tokens_per_second"] == 5 and first["adapters"] == ["m0-a"]
    for _ in range(5):
        more()
    with django_assert_max_num_queries(len(few)):
        assert len(api("GET", MODELS)["data"]) == 12


@pytest.mark.parametrize("name", ["nobody", "%00", "a/b/c", "x" * 3000, "%F0%9F%98%80"])
def test_models_that_are_not_there(api, name):
    for path in (f"{MODELS}/{name}", f"{MODELS}/{name}/fit", f"{MODELS}/{name}/measurements", f"{MODELS}/{name}/plan"):
        assert api("GET", path, status=404)["code"] == "model_not_found"
    for verb in ("load", "fetch", "cancel"):
        assert api("POST", f"{MODELS}/{name}/{verb}", status=404)["code"] == "model_not_found"
    assert api("DELETE", f"{MODELS}/{name}", status=404)["code"] == "model_not_found"


# What it costs


def test_prices(api):
    api("POST", MODELS, {"name": "m", "source": "scripted:"})
    made = api("PATCH", f"{MODELS}/m", {"input_price": 0.15, "output_price": "2.5"})
    assert (made["input_price"], made["output_price"], made["currency"]) == (0.15, 2.5, "USD")
    assert api("PATCH", f"{MODELS}/m", {"input_price": None})["input_price"] is None
    for wrong in (-1, "NaN", 1e30, 0.00001, "free", True, []):
        api("PATCH", f"{MODELS}/m", {"output_price": wrong}, status=400)
    assert api("GET", f"{MODELS}/m")["output_price"] == 2.5
