"""`manage.py model fetch` and `model token`: what they print where, and how they refuse."""

import io
import sys
import threading
import uuid

import pytest
from django.core.management import CommandError
from django.db import connection

from models_registry.cli import fetching as cli
from models_registry.hub import download_run, downloads, tokens
from models_registry.hub.scripted import Fault
from models_registry.models import Download, HubToken, Model, Worker
from tests.models_registry.cli.test_model_command import run
from tests.models_registry.hubs import repository, running

pytestmark = pytest.mark.django_db
TOKEN = "hf_0123456789"


@pytest.fixture
def served(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(cli, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(cli, "LINE_SECONDS", 0.0)
    with running(tmp_path, settings, monkeypatch) as found:
        yield found


@pytest.fixture
def model(served):
    repository(served)
    return downloads.add("m", "org/tiny")


@pytest.fixture
def worker(monkeypatch):
    """Does what is woken at the next look of the one who follows, as an io worker would."""
    Worker.objects.create(cluster="io", hostname="here", pid=1)

    def work(seconds):
        for download in Download.objects.filter(state="queued"):
            download_run.run(download.model_id, uuid.uuid4())

    monkeypatch.setattr(cli.time, "sleep", work)


def test_a_plan(model):
    out, err = run("fetch", "m", "--plan")
    assert "model.safetensors" in out
    assert "in 5 files; licence: apache-2.0" in out
    assert "stay free on the disk" in out
    assert err == ""
    assert not Download.objects.exists()


def test_fetched_and_followed(model, worker):
    out, err = run("fetch", "m")
    model.refresh_from_db()
    assert out == f"m is fetched into {model.source}\n"
    assert "model.safetensors" in err, "what it takes is said first"
    assert "queued: 0 MiB of" in err
    assert "io worker" not in err


def test_nobody_works(model):
    out, err = run("fetch", "m", "--detach")
    assert out == "m is queued\n"
    assert "no io worker runs" in err
    assert "manage.py up" in err


def test_it_fails(model, worker, served):
    served.faults = [Fault("wrong", "config.json", times=-1)]
    with pytest.raises(CommandError, match=r"m: config\.json of org/tiny came twice"):
        run("fetch", "m")
    served.faults = []
    assert "is fetched into" in run("fetch", "m", "--retry")[0]


def test_paused_resumed_cancelled(model, worker):
    run("fetch", "m", "--detach")
    assert "is paused" in run("fetch", "m", "--pause")[0]
    with pytest.raises(CommandError, match="is paused: resume it"):
        run("fetch", "m")
    assert run("fetch", "m", "--resume", "--detach") == ("m is queued\n", "")
    assert "a draft again" in run("fetch", "m", "--cancel")[0]
    with pytest.raises(CommandError, match="is cancelled: it cannot be resumed"):
        run("fetch", "m", "--resume")


def test_paused_by_somebody_else_while_it_is_followed(model, monkeypatch):
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: downloads.pause(model))
    assert "is paused: 'manage.py model fetch m --resume' continues it" in run("fetch", "m")[0]


def test_interrupted_it_goes_on(model, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.time, "sleep", interrupt)
    _, err = run("fetch", "m")
    assert "the download continues: 'manage.py model fetch m --pause' pauses it" in err
    assert Download.objects.get().state == "queued"


def test_the_disk_is_too_small(model, monkeypatch):
    monkeypatch.setattr(downloads, "_disk_free", lambda: 10)
    assert "the disk cannot hold it" in run("fetch", "m", "--plan")[0]
    with pytest.raises(CommandError, match="cannot hold m: it needs"):
        run("fetch", "m")


@pytest.mark.parametrize("option", [None, "--plan", "--pause", "--resume", "--cancel", "--retry"])
def test_errors_are_one_line(served, option):
    Model.objects.create(name="here", source="/somewhere")
    for name in ("nobody", "here"):
        with pytest.raises(CommandError) as error:
            run("fetch", name, *([option] if option else []))
        assert "\n" not in str(error.value)


@pytest.mark.django_db(transaction=True)
def test_a_bar_on_a_terminal(served, monkeypatch):
    """With a worker of its own, as in life."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    repository(served)
    served.rate = 400_000
    model = downloads.add("m", "org/tiny")
    downloads.start(model)
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)

    def work():
        download_run.run(model.pk, uuid.uuid4())
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    from django.core.management import call_command

    out = io.StringIO()
    call_command("model", "fetch", "m", stdout=out, stderr=shown)
    thread.join()
    assert "is fetched into" in out.getvalue()
    assert "done" in shown.getvalue()
    assert "/s" in shown.getvalue()


def test_a_token_is_read_and_kept(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TOKEN}\n"))
    out, err = run("token", "mine")
    assert "mine is kept" in out
    assert TOKEN not in out + err
    assert tokens.reveal(HubToken.objects.get()) == TOKEN


def test_a_token_is_forgotten():
    downloads.add("m", "org/tiny", token=tokens.keep("mine", TOKEN))
    assert run("token", "mine", "--remove")[0] == "the token mine is removed; it was used by m\n"
    assert Model.objects.get().hub_token is None
    with pytest.raises(CommandError, match="no token 'mine'"):
        run("token", "mine", "--remove")


def test_nothing_is_no_token(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(CommandError, match="not an access token"):
        run("token", "mine")


def test_the_hub_alone_can_be_run(tmp_path):
    """As documented: `python -m models_registry.hub.scripted FOLDER`."""
    import subprocess

    import httpx

    (tmp_path / "org" / "m").mkdir(parents=True)
    (tmp_path / "org" / "m" / "config.json").write_text("{}")
    command = [sys.executable, "-m", "models_registry.hub.scripted", "--port", "0", "--fault", "cut:*.json:1", tmp_path]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().split()[-1]
        found = httpx.get(f"{url}/api/models/org/m/revision/main", trust_env=False).json()
        assert [one["rfilename"] for one in found["siblings"]] == ["config.json"]
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{url}/org/m/resolve/main/config.json", trust_env=False)
        assert httpx.get(f"{url}/org/m/resolve/main/config.json", trust_env=False).text == "{}"
        process.terminate()
