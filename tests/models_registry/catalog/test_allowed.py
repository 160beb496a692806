"""What the server runs only where its settings allow it, tried by everybody who could ask for it."""

import json
import subprocess
import sys

import pytest
from django.core.management import CommandError, call_command

from models_registry.catalog import add, aliases, rules
from models_registry.catalog.folders import ModelError
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.scripted import server, start
from models_registry.gpu import operations
from models_registry.hub import downloads
from models_registry.models import Alias, Model, OperationKind
from tests.models_registry.api.test_registry import MODELS, Api
from tests.models_registry.catalog.test_add import model_folder
from tests.people import person, superuser, text
from vbs.configuration.models import AuditEntry

OFF = "VBS_SCRIPTED_ENGINE=true"
ADD = {"name": "mine", "source": "scripted:", "task": "chat", "engine_args": "{}"}
OPTIONS = {"journal": "/tmp/journal", "fits-without": "/etc/passwd", "counters": True}


@pytest.fixture
def off(settings):
    settings.VBS_SCRIPTED_ENGINE = False


@pytest.fixture
def left(db):
    """One that was added while the setting was on."""
    return Model.objects.create(name="left", kind="scripted")


# The scripted engine


def test_it_is_off_where_nobody_says_otherwise(tmp_path):
    code = "from vbs import settings; print(settings.VBS_SCRIPTED_ENGINE)"
    environment = {"PATH": "/usr/bin:/bin", "VBS_DATA_DIR": str(tmp_path), "VBS_SECRET_KEY": "x"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_nobody_adds_one(db, off):
    assert OFF in Api(operator=True)("POST", MODELS, {"name": "mine", "source": "scripted:"}, 400)["message"]
    Api(operator=True)("POST", MODELS, {"name": "mine", "paste": "scripted:"}, 400)
    for client in (person("operator"), superuser()):
        answer = client.post("/models/add", ADD)
        assert answer.status_code == 422 and OFF in text(answer)
    with pytest.raises(CommandError, match=OFF):
        call_command("model", "add", "mine", "scripted:")
    assert not Model.objects.exists()


def test_nobody_changes_points_at_or_runs_one(left, off, gpu):
    with pytest.raises(LoadError, match=OFF):
        gpu.load(left, lambda step: None)
    for kind in (OperationKind.LOAD, OperationKind.TEST, OperationKind.BENCHMARK):
        with pytest.raises(ModelError, match=OFF):
            operations.ask(kind, left)
    with pytest.raises(ModelError, match=OFF):
        aliases.point("other", left)
    with pytest.raises(ModelError, match=OFF):
        add.edit(left, engine_args={"latency-ms": 1})
    assert add.edit(left, notes="it may be described").notes
    assert not Alias.objects.exists()


@pytest.mark.parametrize("option", OPTIONS)
def test_what_reaches_files_is_for_who_has_a_shell(left, option):
    options = {option: OPTIONS[option]}
    api = Api(operator=True)
    refused = f"{option} of a scripted model reaches files"
    given = {"name": "mine", "source": "scripted:", "engine_args": options}
    assert refused in api("POST", MODELS, given, 400)["message"]
    assert refused in api("PATCH", f"{MODELS}/left", {"engine_args": options}, 400)["message"]
    typed = json.dumps(options)
    for client in (person("operator"), superuser()):
        assert refused in text(client.post("/models/add", ADD | {"engine_args": typed}))
        assert refused in text(client.post(f"/models/{left.pk}/edit", {"task": "chat", "engine_args": typed}))
    changed = {"task": "chat", "engine_args": typed}
    assert refused in text(superuser("boss").post(f"/admin/models_registry/model/{left.pk}/change/", changed))
    left.refresh_from_db()
    assert Model.objects.count() == 1 and left.engine_args == {}
    call_command("model", "edit", "left", f"--arg={option}={json.dumps(OPTIONS[option])}")
    left.refresh_from_db()
    assert option in left.engine_args


def test_no_option_that_reaches_files_is_forgotten():
    """Who adds one to the engine names it here too."""
    reach = {
        action.option_strings[-1].removeprefix("--")
        for action in start.parser()._actions
        if any(word in f"{action.metavar} {action.help}".lower() for word in ("path", "file", "folder", "socket"))
    }
    assert reach - {"uds"} == start.FILE_OPTIONS
    assert {"uds", "host", "port", "served-model-name"} <= rules.engine_options.OURS


@pytest.mark.parametrize("word", ["--jour", "--journa", "--u", "--ud", "--por", "--hos", "--count", "--fits-w"])
def test_half_an_option_is_none(word, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["scripted", f"{word}={tmp_path / 'x'}"])
    with pytest.raises(SystemExit):
        start.read_options(server.__doc__)
    assert "unrecognized arguments" in capsys.readouterr().err


def test_a_request_writes_no_file(add_model, submitted, gpu, close, tmp_path):
    add_model(counters=False)
    batch = submitted([{
        "custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "scripted", "messages": [
            {"role": "user", "content": f"[[status-times 503 2 {tmp_path}/written]]"}
        ]},
    }])  # fmt: skip
    gpu.serve()
    _, bad = close(batch)
    assert "--counters" in bad[0]["response"]["body"]["error"]["message"]
    assert not list(tmp_path.iterdir())


# Code that comes with a model

TRUST = "VBS_TRUST_REMOTE_CODE=true"


@pytest.fixture
def folder(tmp_path, settings):
    settings.VBS_MODEL_ROOTS, settings.MODELS_DIR = [str(tmp_path)], tmp_path / "ours"
    return str(model_folder(tmp_path / "m"))


@pytest.fixture
def model(db, folder):
    return add.add("m", folder)


def test_nobody_has_it_run_where_the_setting_is_off(model, folder, gpu):
    for act in (
        lambda: add.add("n", folder, trust_remote_code=True),
        lambda: downloads.add("n", "o/n", trust_remote_code=True),
        lambda: add.edit(model, trust_remote_code=True),
    ):
        with pytest.raises(ModelError, match=TRUST):
            act()
    boss = superuser()
    assert "trust_remote_code" not in text(boss.get(f"/models/{model.pk}/"))
    assert TRUST in text(boss.post(f"/models/{model.pk}/edit", {"task": "chat", "trust_remote_code": "on"}))
    assert TRUST in text(boss.post("/models/add", ADD | {"source": folder, "name": "n", "trust_remote_code": "on"}))
    changed = {"task": "chat", "engine_args": "{}", "trust_remote_code": "on"}
    assert TRUST in text(boss.post(f"/admin/models_registry/model/{model.pk}/change/", changed))
    assert not Model.objects.filter(trust_remote_code=True).exists()
    Model.objects.update(trust_remote_code=True)  # while it was on
    model.refresh_from_db()
    with pytest.raises(LoadError, match=TRUST):
        gpu.load(model, lambda step: None)
    assert add.edit(model, notes="it may be described").notes
    assert not add.edit(model, trust_remote_code=False).trust_remote_code


@pytest.mark.parametrize("auth", ["required", "open"])
def test_no_key_has_it_run(model, folder, settings, auth):
    settings.VBS_TRUST_REMOTE_CODE, settings.VBS_API_AUTH = True, auth
    api = Api(operator=True)
    given = {"name": "n", "source": folder, "trust_remote_code": True}
    error = api("POST", MODELS, given, 403)
    assert (error["param"], error["type"]) == ("trust_remote_code", "permission_error")
    api("PATCH", f"{MODELS}/m", {"trust_remote_code": True}, 403)
    assert not Model.objects.filter(trust_remote_code=True).exists()
    Model.objects.update(trust_remote_code=True)
    api("PATCH", f"{MODELS}/m", {"trust_remote_code": False})
    assert not Model.objects.filter(trust_remote_code=True).exists()


@pytest.mark.parametrize(("role", "may"), [("operator", False), ("admin", True), ("superuser", True)])
def test_only_admins_have_it_run_and_the_log_says_so(model, folder, settings, role, may):
    settings.VBS_TRUST_REMOTE_CODE = True
    client = superuser() if role == "superuser" else person(role)
    given = ADD | {"source": folder, "name": "n", "trust_remote_code": "on"}
    added = client.post("/models/add", given)
    edited = client.post(f"/models/{model.pk}/edit", {"task": "chat", "trust_remote_code": "on"})
    for answer in (added, edited):
        assert answer.status_code == (302 if may else 422)
        assert may or "(trust_remote_code) cannot be set here: only an admin" in text(answer)
    trusted = set(Model.objects.filter(trust_remote_code=True).values_list("name", flat=True))
    told = AuditEntry.objects.filter(action="model.trust")
    assert trusted == ({"m", "n"} if may else set())
    assert set(told.values_list("target", flat=True)) == trusted
    if may:
        client.post(f"/models/{model.pk}/edit", {"task": "chat"})
        changed = {"task": "chat", "engine_args": "{}", "trust_remote_code": "on"}
        client.post(f"/admin/models_registry/model/{model.pk}/change/", changed)
        said = [entry.detail for entry in told.filter(target="m").order_by("pk")]
        assert ["not run here" in one for one in said] == [False, True, False]


def test_the_log_says_so_of_commands_too(model, folder, settings):
    settings.VBS_TRUST_REMOTE_CODE = True
    call_command("model", "add", "n", folder, "--trust-remote-code")
    call_command("model", "edit", "m", "--trust-remote-code")
    call_command("model", "edit", "m", "--no-trust-remote-code")
    call_command("model", "edit", "m", "--notes", "nothing of it")
    told = AuditEntry.objects.filter(action="model.trust").order_by("pk")
    assert [(entry.target, "not run" in entry.detail) for entry in told] == [("n", False), ("m", False), ("m", True)]
    assert all(entry.username.startswith("manage.py, ") for entry in told)
