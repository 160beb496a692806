"""A .gguf file that is added over the network is converted by an io worker; on the command line one waits for it."""

import os
import random
import signal
import time

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now
from django.test import Client
from django_q.models import OrmQ

from models_registry import tasks
from models_registry.catalog import add as importer
from models_registry.catalog import folders, made_folders, remove
from models_registry.catalog.folders import ModelError, Needed
from models_registry.fit import judge
from models_registry.hub import download_run, downloads
from models_registry.models import Download, DownloadState, Model, ModelState
from tests.amount import few
from tests.converter import stand_in
from tests.models_registry.api.test_registry import MODELS, Api
from tests.models_registry.catalog import test_add
from tests.models_registry.cli.test_model_command import run
from tests.models_registry.hub.fetched import fetched, is_whole, killed_in, turn
from tests.models_registry.hub.test_kills import worker
from vbs.run import space

pytestmark = pytest.mark.django_db


@pytest.fixture
def gguf(tmp_path, settings, monkeypatch):
    """Where a model may come from."""
    settings.VBS_DATA_DIR, settings.MODELS_DIR = tmp_path / "data", tmp_path / "models"
    settings.VBS_MODEL_ROOTS = [str(tmp_path / "root")]
    settings.VBS_HUB_URL, settings.HF_TOKEN = "http://127.0.0.1:9", ""  # nobody listens there, and nobody is asked
    monkeypatch.setattr(download_run, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(download_run, "LOCK_SECONDS", 0.2)
    file = tmp_path / "root" / "m-Q4_K_M.gguf"
    file.parent.mkdir()
    file.write_bytes(b"GGUF" * 1000)
    return file


@pytest.fixture
def converter(tmp_path, settings):
    """Stands in for the real one, which takes seconds."""
    program = stand_in(tmp_path / "base")
    settings.BASE_DIR = tmp_path / "base"
    return program


@pytest.fixture
def content(tmp_path, converter):
    """What it makes."""
    folder = test_add.model_folder(tmp_path / "made")
    converter.write_text(making(folder))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def making(folder):
    return (
        "import pathlib, shutil, sys\n"
        "assert pathlib.Path(sys.argv[1]).read_bytes() == b'GGUF' * 1000\n"
        f"shutil.copytree({str(folder)!r}, sys.argv[2], dirs_exist_ok=True)\n"
    )


def add(gguf, **more):
    return importer.add("m", str(gguf), on_server=True, later=downloads.start, **more)


# Converted


def test_it_is_registered_at_once_and_ready_later(gguf, content):
    model = add(gguf, notes="n", engine_args={"max-model-len": 100})
    download = Download.objects.get()
    assert (model.state, model.source, download.state) == (ModelState.DOWNLOADING, str(gguf), DownloadState.QUEUED)
    assert (download.files, download.bytes_total) == ([], 0)
    assert [(one.func(), one.args()) for one in OrmQ.objects.all()] == [
        ("models_registry.tasks.fetch", (str(model.pk),))
    ]
    assert not made_folders.path_of("m").exists()
    with pytest.raises(ModelError, match="not here yet"):
        judge.judge(model)
    tasks.fetch(str(model.pk))
    model.refresh_from_db()
    is_whole(model, content)
    assert (model.task, model.context_length, model.notes, model.hub_id) == ("chat", 100, "n", "")
    assert Download.objects.get().state == DownloadState.DONE
    assert gguf.exists()
    tasks.fetch(str(model.pk))
    is_whole(Model.objects.get(), content)
    remove.remove(model, files=True)
    assert gguf.exists() and not made_folders.path_of("m").exists()


def test_the_task_that_was_given_stays(gguf, content):
    model = add(gguf, task="completion")
    turn(model)
    assert (model.state, model.task) == (ModelState.READY, "completion")


def test_on_the_command_line_whoever_adds_it_waits(gguf, content):
    model = importer.add("m", str(gguf))
    is_whole(model, content)
    assert not Download.objects.exists() and not OrmQ.objects.exists()


def test_over_the_api(gguf, content):
    api = Api(operator=True)
    made = api("POST", MODELS, {"name": "m", "source": str(gguf)})
    assert (made["state"], made["source"], made["download"]["state"]) == ("downloading", str(gguf), "queued")
    Download.objects.update(state="running")
    assert api("GET", f"{MODELS}/m")["download"]["doing"] == "being converted"
    Download.objects.update(state="queued")
    plan = api("GET", f"{MODELS}/m/plan")
    assert (plan["files"], plan["bytes"], plan["need"]) == ([], 0, 16_000)
    turn(Model.objects.get())
    found = api("GET", f"{MODELS}/m")
    assert (found["state"], found["download"]["state"], found["download"]["doing"]) == ("unchecked", "done", None)
    assert found["source"] == str(made_folders.path_of("m"))


def test_on_the_page(gguf, content, settings):
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    given = {"name": "m", "source": str(gguf), "engine_args": ""}
    assert "m is added, and being converted." in client.post("/models/add", given, follow=True).content.decode()
    Download.objects.update(state="running")
    page = client.get("/models/").content.decode()
    assert "downloading" in page and "being converted" in page
    model = Model.objects.get()
    client.post(f"/models/{model.pk}/act", {"do": "cancel"})
    assert "Convert" in client.get("/models/").content.decode()
    client.post(f"/models/{model.pk}/act", {"do": "fetch"})
    turn(model)
    is_whole(model, content)


def test_followed_on_the_command_line(gguf, content, monkeypatch):
    from models_registry.cli import fetching as cli

    monkeypatch.setattr(cli, "LINE_SECONDS", 0.0)
    model = add(gguf)
    Download.objects.update(state="running", leased_until=Now())
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: turn(model))
    out, err = run("fetch", "m")
    assert "being converted: 0 MiB of 0 MiB" in err and "m is fetched into" in out


# Refused, failed, cancelled


def test_what_cannot_be_converted_is_not_registered(gguf, content, monkeypatch):
    other = importer.add("other", str(test_add.model_folder(made_folders.path_of("m"))))
    with pytest.raises(ModelError, match="is the folder of other"):
        add(gguf)
    with pytest.raises(ModelError, match="too long for the name of a folder"):
        importer.add("m" + ":" * 150, str(gguf), on_server=True, later=downloads.start)
    os.mkfifo(gguf.with_name("pipe.gguf"))
    with pytest.raises(ModelError, match=r"pipe\.gguf"):
        importer.add("pipe", str(gguf.with_name("pipe.gguf")), on_server=True, later=downloads.start)
    monkeypatch.setattr(downloads, "_disk_free", lambda: space.RESERVE + 15_999)
    with pytest.raises(ModelError, match="cannot hold m2"):
        importer.add("m2", str(gguf), on_server=True, later=downloads.start)
    assert Model.objects.get() == other
    assert not Download.objects.exists() and not OrmQ.objects.exists()


def test_a_file_that_is_no_model_fails_with_the_reason_and_can_be_retried(gguf, content, converter, tmp_path):
    converter.write_text("raise ValueError('what is this')")
    model = add(gguf)
    turn(model)
    assert (model.state, Download.objects.get().state) == (ModelState.FAILED, DownloadState.FAILED)
    assert "could not be converted: ValueError: what is this" in model.reason
    assert (model.source, made_folders.path_of("m").exists()) == (str(gguf), False)
    with pytest.raises(ModelError, match="not here yet"):
        judge.judge(model)
    converter.write_text(making(tmp_path / "made"))
    downloads.retry(model)
    turn(model)
    is_whole(model, content)


def test_what_it_becomes_no_engine_could_load(gguf, converter, tmp_path):
    converter.write_text(
        making(test_add.model_folder(tmp_path / "made", tokenizer__json=None, **{"tokenizer_config.json": None}))
    )
    model = add(gguf)
    turn(model)
    assert model.state == ModelState.FAILED and "no tokenizer" in model.reason
    assert not made_folders.path_of("m").exists()


def test_the_file_has_gone_meanwhile(gguf, content, tmp_path):
    model = add(gguf)
    data = gguf.read_bytes()
    gguf.unlink()
    turn(model)
    assert model.state == ModelState.FAILED and "is not there any more" in model.reason
    with pytest.raises(ModelError, match="cannot be read"):
        downloads.retry(model)
    (tmp_path / "secret.gguf").write_bytes(data)
    gguf.symlink_to(tmp_path / "secret.gguf")
    downloads.retry(model)
    turn(model)
    assert model.state == ModelState.FAILED and "not in a folder that models may come from" in model.reason
    gguf.unlink()
    gguf.write_bytes(data)
    downloads.retry(model)
    turn(model)
    is_whole(model, content)


def test_cancelled_before_it_begins(gguf, content):
    model = add(gguf)
    with pytest.raises(Needed, match="cancel it first"):
        remove.remove(model)
    downloads.cancel(model)
    assert (model.state, model.source, Download.objects.get().state) == ("draft", str(gguf), "cancelled")
    tasks.fetch(str(model.pk))
    assert not made_folders.path_of("m").exists()
    remove.remove(model)
    assert gguf.exists() and not Model.objects.exists()


def test_cancelled_while_it_converts(gguf, content, monkeypatch):
    model = add(gguf)
    finish = download_run.DownloadRun._finish

    def too_late(self, found):
        downloads.cancel(model)
        finish(self, found)

    monkeypatch.setattr(download_run.DownloadRun, "_finish", too_late)
    turn(model)
    assert (model.state, model.source) == (ModelState.DRAFT, str(gguf))
    assert not made_folders.path_of("m").exists()
    monkeypatch.undo()
    fetched(model)


# Killed


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(made_folders, "make"), (made_folders, "converted"), (folders, "examine"), (download_run.DownloadRun, "_finish")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_killed_at_each_step(gguf, content, monkeypatch, owner, name, after):
    model = add(gguf)
    with killed_in(monkeypatch, owner, name, after):
        turn(model)
    model.refresh_from_db()
    if (name, after) != ("_finish", True):
        assert (model.state, model.source) == ("downloading", str(gguf))
        turn(model)
    downloads.sweep()
    is_whole(model, content)


def test_made_but_not_registered_and_then_cancelled(gguf, content, monkeypatch):
    model = add(gguf)
    with killed_in(monkeypatch, made_folders, "make"):
        turn(model)
    assert made_folders.path_of("m").exists()
    assert not remove.leftovers(), "somebody goes on with it"
    downloads.cancel(model)
    assert not made_folders.path_of("m").exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("seed", few(range(2)))
def test_killed_in_the_middle_of_it(gguf, tmp_path, settings, monkeypatch, seed):
    """The child that is left behind keeps the lock; when it has ended, the next worker converts anew."""
    generator = random.Random(seed)
    child, folder = tmp_path / "child", test_add.model_folder(tmp_path / "made")
    program = stand_in(tmp_path / "base")
    program.write_text(
        "import os, pathlib, sys, time\n"
        "pathlib.Path(sys.argv[2], 'half').touch()\n"
        f"pathlib.Path({str(child)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    settings.MODELS_DIR = tmp_path / "data" / "models"  # as the worker's
    monkeypatch.setenv("VBS_MODEL_ROOTS", settings.VBS_MODEL_ROOTS[0])
    model = add(gguf)
    for _ in range(2):
        with worker(model, served(), tmp_path / "data", tmp_path / "base") as process:
            deadline = time.monotonic() + 20
            while not child.exists() or not child.read_text():
                assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
                time.sleep(0.02)
            time.sleep(generator.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        Download.objects.update(leased_until=Now())
        turn(model)
        assert Download.objects.get().state == "running", "the lock is still held: it waits"
        os.kill(int(child.read_text()), signal.SIGKILL)
        child.unlink()
        Download.objects.update(leased_until=Now())
    program.write_text(making(folder))
    settings.BASE_DIR = tmp_path / "base"
    deadline = time.monotonic() + 10
    while Model.objects.get().state != "ready":
        assert time.monotonic() < deadline
        Download.objects.update(leased_until=Now())
        turn(model)
    is_whole(model, {path.name: path.read_bytes() for path in folder.iterdir()})


def served():
    """No hub is needed."""
    from types import SimpleNamespace

    return SimpleNamespace(url="http://127.0.0.1:9")
