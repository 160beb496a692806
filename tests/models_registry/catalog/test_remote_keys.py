"""Keys of remote servers: how they come in, and that nothing tells them again."""

import io
import json
import logging
import sys

import pytest
from django.core.management import CommandError

from models_registry import remote_keys
from models_registry.catalog import add
from models_registry.catalog.folders import ModelError
from models_registry.models import Model
from models_registry.pages.logs import files
from tests.models_registry.api.test_registry import Api
from tests.models_registry.cli.test_model_command import run
from vbs.configuration.models import AuditEntry

pytestmark = pytest.mark.django_db

KEY, ORIGIN = "sk-strangers-1234", "https://8.8.8.8:443"
URL = "https://8.8.8.8/v1"


def kept(name="far"):
    return remote_keys.of(Model.objects.get(name=name))


def test_it_is_encrypted_and_for_one_origin(settings):
    settings.VBS_REMOTE_KEY, settings.VBS_REMOTE_ORIGINS = "sk-everybody", ["https://1.1.1.1", "https://8.8.8.8"]
    model = add.add("far", URL, pool=["https://9.9.9.9/v1"], key=f" {KEY}\n")
    assert KEY not in model.key_secret and KEY not in repr(model.spec())
    assert kept() == {ORIGIN: KEY, "https://1.1.1.1:443": "sk-everybody"}
    Model.objects.update(checked_at="2026-01-01T00:00Z")
    assert add.edit(model, key="sk-another").checked_at is None, "what was found with the other key does not hold"
    assert kept()[ORIGIN] == "sk-another"
    add.edit(model, key="")
    assert kept()[ORIGIN] == "sk-everybody"


def test_another_secret_key_makes_it_unreadable(settings):
    add.add("far", URL, key=KEY)
    settings.SECRET_KEY = "another"
    with pytest.raises(remote_keys.UnreadableKey, match="model edit far --key-file FILE"):
        kept()
    assert remote_keys.every() == []


@pytest.mark.parametrize("wrong", ["two words", "x" * 1001, "schlüssel", "a\tb"])
def test_what_is_no_key(wrong):
    with pytest.raises(ModelError, match="this is not a key") as refused:
        add.add("far", URL, key=wrong)
    assert wrong not in str(refused.value) and not Model.objects.exists()


def test_only_a_remote_model_has_one(settings):
    settings.VBS_SCRIPTED_ENGINE = True
    with pytest.raises(ModelError, match="only for a model on a remote server"):
        add.add("near", "scripted:", key=KEY)
    model = add.add("near", "scripted:")
    with pytest.raises(ModelError, match="only for a model on a remote server"):
        add.edit(model, key=KEY)


def test_by_command(tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_text(f"{KEY}\nwhat follows is not read\n")
    said = run("add", "far", URL, "--key-file", str(file))
    assert kept()[ORIGIN] == KEY and KEY not in str(said)
    assert json.loads(run("show", "far")[0])["has_key"] is True
    monkeypatch.setattr(sys, "stdin", io.StringIO("sk-by-pipe\n"))
    run("edit", "far", "--key-file", "-")
    assert kept()[ORIGIN] == "sk-by-pipe"
    run("edit", "far", "--no-key")
    assert json.loads(run("show", "far")[0])["has_key"] is False
    for name, why in ((str(tmp_path / "none"), "No such file"), (str(tmp_path), "Is a directory")):
        with pytest.raises(CommandError, match=why):
            run("edit", "far", "--key-file", name)
    file.write_text("\n")
    with pytest.raises(CommandError, match="there is no key in"):
        run("edit", "far", "--key-file", str(file))


def test_nothing_tells_it(root, caplog):
    """By the API and on the pages: it is written, and no answer, page, entry or line has it."""
    caplog.set_level(logging.DEBUG)
    api, answers = Api(operator=True), []
    answers.append(api("POST", "/v1/registry/models", {"name": "far", "source": URL, "key": KEY}))
    assert answers[0]["has_key"] is True and "key" not in answers[0]
    answers.append(api("PATCH", "/v1/registry/models/far", {"key": f"{KEY} x"}, status=400))
    answers += [api("GET", address) for address in ("/v1/models", "/v1/models/far", "/v1/registry/models")]
    model = Model.objects.get()
    page = f"/models/{model.pk}/"
    form = {"task": "chat", "engine_args": "", "license": "", "notes": ""}
    answers.append(root.post(f"{page}edit", form | {"key": f"{KEY} x"}).content.decode())
    assert "this is not a key" in answers[-1]
    assert root.post(f"{page}edit", form | {"notes": "n"}).status_code == 302
    assert kept()[ORIGIN] == KEY, "an empty field leaves it as it is"
    assert root.post(f"{page}edit", form | {"key": f"{KEY}5"}).status_code == 302
    answers += [
        root.get(one).content.decode() for one in (page, "/models/", f"/admin/models_registry/model/{model.pk}/change/")
    ]
    assert "A key is stored" in answers[-3]
    assert "key" in AuditEntry.objects.filter(action="model.edit").latest("id").detail
    answers += list(AuditEntry.objects.values_list("detail", "target"))
    assert KEY not in str(answers) and KEY not in caplog.text
    assert files.clean(f"it said {KEY}5".encode()) == "it said ***"
    both = root.post(f"{page}edit", form | {"key": KEY, "remove_key": "on"})
    assert both.status_code == 422 and "not both" in both.content.decode()
    assert root.post(f"{page}edit", form | {"remove_key": "on"}).status_code == 302
    assert kept() == {}
