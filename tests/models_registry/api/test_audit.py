"""What programs change in the registry stands in the audit log, with whose key, and no more than was done."""

import io
import sys

import psutil
import pytest
from django.urls import get_resolver

from models_registry.api import operations, registry, server
from models_registry.catalog import demo, made_folders
from models_registry.models import Download, Model, Operation
from tests.models_registry.api.test_registry import MODELS, Api, tuned
from tests.models_registry.cli.test_model_command import run
from vbs.accounts.models import ApiKey
from vbs.configuration.models import AuditEntry

UNSAFE = {"post", "put", "patch", "delete"}


@pytest.fixture
def api(db):
    return Api(operator=True)


def kept():
    return list(AuditEntry.objects.order_by("pk").values_list("action", "target"))


def drafted(state):
    """A model whose download is in this state."""
    model, _ = Model.objects.update_or_create(
        name="d", defaults={"kind": "vllm", "state": "downloading", "hub_id": "o/n"}
    )
    Download.objects.update_or_create(model=model, defaults={"state": state})


def queued():
    return Operation.objects.create(model=Model.objects.get(name="m"), kind="unload").pk


def test_every_change_is_kept(api, settings, monkeypatch, tmp_path):
    """All routes of the registry that change something: who adds one adds it here."""
    settings.VBS_DATA_DIR, settings.MODELS_DIR = tmp_path, tmp_path / "models"
    monkeypatch.setattr("models_registry.workloads.needs", lambda names: [])
    monkeypatch.setattr(registry.ModelFetch, "act", staticmethod(lambda model: drafted("queued")))
    tried, expected = set(), []

    def call(method, path, body, view, *entry):
        api(method, path, body, 202 if issubclass(view, operations.QueuedOperation) else 200)
        tried.add((view, method.lower()))
        expected.append(entry)

    one = f"{MODELS}/m"
    given = {"name": "m", "source": "scripted:"}
    call("POST", MODELS, given, registry.RegistryModels, "model.add", "m")
    call("PATCH", one, {"notes": "n"}, registry.RegistryModelDetail, "model.edit", "m")
    call("PUT", "/v1/registry/aliases/a", {"model": "m"}, registry.AliasDetail, "model.alias", "a → m")
    call("DELETE", "/v1/registry/aliases/a", None, registry.AliasDetail, "model.unalias", "a")
    for view, verb in (
        (operations.ModelLoad, "load"), (operations.ModelUnload, "unload"),
        (operations.ModelTest, "test"), (operations.ModelBenchmark, "benchmark"), (operations.ModelTune, "tune"),
    ):  # fmt: skip
        call("POST", f"{one}/{verb}", {}, view, f"model.{verb}", "m")
    operation = queued()
    path = f"/v1/registry/operations/{operation}/cancel"
    call("POST", path, None, operations.OperationCancellation, "operation.cancel", operation)
    found = tuned(Model.objects.get(name="m"), own={})
    call("POST", f"/v1/registry/operations/{found.pk}/keep", None, operations.OperationKeep, "model.edit", "m")
    for view, verb, state in (
        (registry.ModelFetch, "fetch", "failed"), (registry.ModelPause, "pause", "queued"),
        (registry.ModelResume, "resume", "paused"), (registry.ModelRetry, "retry", "failed"),
        (registry.ModelCancel, "cancel", "queued"),
    ):  # fmt: skip
        drafted(state)
        call("POST", f"{MODELS}/d/{verb}", None, view, f"model.{verb}", "d")
    monkeypatch.setattr(demo, "add", lambda key, told: (Model.objects.get(name="m"), True))
    call("POST", "/v1/registry/demo-models/smollm2", None, server.DemoModels, "model.add", "m")
    folder = made_folders.path_of("left")
    folder.mkdir(parents=True)
    (folder / made_folders.ORIGIN).touch()
    call("DELETE", "/v1/registry/leftovers/models/left", None, server.LeftoverDetail, "folder.remove", "models/left")
    Operation.objects.all().delete()  # which need it
    call("DELETE", one, None, registry.RegistryModelDetail, "model.remove", "m")
    assert kept() == expected
    key = ApiKey.objects.get()
    assert set(AuditEntry.objects.values_list("username", flat=True)) == {f"key {key.prefix}… (laptop)"}
    assert all("project “project”" in row.detail for row in AuditEntry.objects.all())
    views = {getattr(one.callback, "cls", None) for one in get_resolver().url_patterns if hasattr(one, "callback")}
    views = {view for view in views if view and issubclass(view, registry.RegistryView)}
    views -= {registry.Paste, server.Tokens}  # one changes nothing, the other is for commands
    assert tried == {(view, method) for view in views for method in UNSAFE if hasattr(view, method)}


def test_what_is_refused_or_sent_again_is_not_kept(api):
    api("POST", MODELS, {"name": "m", "source": "nonsense://"}, 400)
    api("DELETE", f"{MODELS}/m", None, 404)
    Api()("POST", MODELS, {"name": "m", "source": "scripted:"}, 403)
    assert kept() == []
    for _ in range(2):
        answer = api.client.post(
            MODELS, {"name": "m", "source": "scripted:"}, "application/json", headers={"Idempotency-Key": "k"}
        )
        assert answer.status_code == 200
    assert kept() == [("model.add", "m")]
    api("DELETE", f"{MODELS}/m?dry_run=true")
    api("POST", "/v1/registry/paste", {"text": "org/name"})
    assert kept() == [("model.add", "m")]


def test_what_a_command_does_is_kept_with_the_name_of_the_systems_user(db, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hf_0123456789\n"))
    run("token", "mine")
    run("add", "m", "scripted:")
    run("token", "mine", "--remove")
    assert kept() == [("token.keep", "mine"), ("model.add", "m"), ("token.remove", "mine")]
    assert set(AuditEntry.objects.values_list("username", flat=True)) == {f"manage.py, {psutil.Process().username()}"}
    assert "hf_" not in str(list(AuditEntry.objects.values()))


def test_without_keys(db, client, settings):
    settings.VBS_API_AUTH = "open"
    client.post(MODELS, {"name": "m", "source": "scripted:"}, "application/json")
    assert AuditEntry.objects.get().username == "the API, without a key"
