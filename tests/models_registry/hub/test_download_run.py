"""A model of a hub is fetched whole or not at all, whatever network, hub and disk do, and whoever is killed."""

import errno
import json
import os
import threading
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.db import connection
from django_q.models import OrmQ

from models_registry import tasks
from models_registry.catalog import folders, made_folders, partial_files, remove
from models_registry.hub import download_run, transfer
from models_registry.hub import downloads as fetch
from models_registry.hub.scripted import Fault
from models_registry.models import Download, DownloadState
from tests.models_registry.hub.fetched import (
    asked_for,
    fetched,
    is_nowhere,
    is_whole,
    killed_in,
    turn,
)
from tests.models_registry.hubs import CONFIG, repository, weights
from vbs.database import outages

pytestmark = pytest.mark.django_db


# Fetching


def test_a_model_is_fetched_and_ready(served):
    content = repository(served, **{"1_Pooling/config.json": b'{"a": 1}', "chat_template.jinja": b"{{ messages }}"})
    model = fetch.add("org/tiny:1", "org/tiny")
    download = fetch.start(model)
    assert (download.state, model.state) == ("queued", "downloading")
    assert OrmQ.objects.get().func() == "models_registry.tasks.fetch"
    assert OrmQ.objects.get().args() == (str(model.pk),)
    tasks.fetch(str(model.pk))
    model.refresh_from_db()
    is_whole(model, content)
    assert (model.task, model.context_length, model.license) == ("chat", 4096, "apache-2.0")
    assert (model.size_bytes, model.revision) == (len(content["model.safetensors"]), served.commit("org/tiny"))
    download.refresh_from_db()
    assert (download.state, download.bytes_done) == ("done", sum(map(len, content.values())))
    assert (download.leased_by, download.leased_until) == (None, None)
    assert download.finished_at >= download.started_at
    assert {one.func() for one in OrmQ.objects.all()} >= {"models_registry.tasks.work"}, "batches may wait for it"
    remove.remove(model, files=True)
    assert [path.name for path in (made_folders.path_of("m").parent).iterdir() if path.name[0] != "."] == []


@pytest.mark.parametrize(
    ("given", "config", "files", "task"),
    [
        (None, CONFIG, {"tokenizer_config.json": b"{}"}, "completion"),
        (None, CONFIG | {"architectures": ["BertModel"]}, {}, "embedding"),
        ("embedding", CONFIG, {}, "embedding"),
        ("chat", CONFIG | {"architectures": ["NobodyKnows"]}, {}, "chat"),
    ],
)
def test_the_task_is_what_was_given_or_what_the_files_say(served, given, config, files, task):
    repository(served, **{"config.json": json.dumps(config).encode()} | files)
    model = fetch.add("m", "org/tiny", task=given)
    fetched(model)
    assert (model.state, model.task) == ("ready", task)


def test_what_was_said_when_it_was_registered_stays(served):
    repository(served)
    model = fetch.add("m", "org/tiny", license="mine")
    fetched(model)
    assert model.license == "mine"


def test_cut_off_in_the_middle_it_goes_on_from_there(served):
    content = repository(served)
    served.faults = [Fault("cut", "model.safetensors", after=100_000, times=2)]
    model = fetch.add("m", "org/tiny")
    fetched(model)
    is_whole(model, content)
    ranges = [asked.range for asked in asked_for(served, "model.safetensors")]
    assert ranges == ["", "bytes=100000-", "bytes=200000-"]


def test_a_connection_that_falls_silent(served):
    content = repository(served)
    served.faults = [Fault("stall", "model.safetensors", after=50_000), Fault("stall", "config.json")]
    model = fetch.add("m", "org/tiny")
    fetched(model)
    is_whole(model, content)


def test_cut_off_always_it_still_gets_there_as_long_as_something_comes(served):
    content = repository(served)
    served.faults = [Fault("cut", "model.safetensors", after=20_000, times=-1)]
    model = fetch.add("m", "org/tiny")
    fetched(model)
    is_whole(model, content)
    assert len(asked_for(served, "model.safetensors")) > transfer.ATTEMPTS


def test_when_nothing_comes_it_fails_and_keeps_what_has_come(served):
    content = repository(served)
    served.faults = [
        Fault("cut", "model.safetensors", after=100_000),
        Fault("cut", "model.safetensors", after=0, times=-1),
    ]
    model = fetch.add("m", "org/tiny")
    download = fetched(model)
    assert (download.state, model.state) == ("failed", "failed")
    assert "stays at 100,000 of" in model.reason
    is_nowhere(model)
    served.faults.clear()
    before = len(asked_for(served, "model.safetensors"))
    assert fetch.retry(model).bytes_done > 100_000
    turn(model)
    is_whole(model, content)
    assert [asked.range for asked in asked_for(served, "model.safetensors")[before:]] == ["bytes=100000-"]


def test_a_hub_that_is_busy(served):
    content = repository(served)
    served.faults = [
        Fault("status", "model.safetensors", status=503, times=2),
        Fault("status", "config.json", status=429, headers={"Retry-After": "0"}, times=3),
    ]
    model = fetch.add("m", "org/tiny")
    fetched(model)
    is_whole(model, content)


def test_a_file_that_has_gone(served):
    repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    served.faults = [Fault("status", "config.json", status=404, headers={"X-Error-Code": "EntryNotFound"})]
    assert "no file 'config.json'" in turn(model).reason
    is_nowhere(model)


def test_the_hub_goes_away(served, settings):
    repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    settings.VBS_HUB_URL = "http://127.0.0.1:9"
    reason = turn(model).reason
    assert "http://127.0.0.1:9 (VBS_HUB_URL) cannot be reached" in reason
    assert "VBS_HUB_URL" in reason


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_a_wrong_byte_is_fetched_again(served, path):
    content = repository(served)
    served.faults = [Fault("wrong", path)]
    model = fetch.add("m", "org/tiny")
    fetched(model)
    is_whole(model, content)
    assert len(asked_for(served, path)) == 2


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_what_is_always_wrong_is_never_there(served, path):
    repository(served)
    served.faults = [Fault("wrong", path, times=-1)]
    model = fetch.add("m", "org/tiny")
    download = fetched(model)
    assert (download.state, model.state) == ("failed", "failed")
    assert f"{path} of org/tiny came twice with another checksum" in model.reason
    assert len(asked_for(served, path)) == 2
    is_nowhere(model)
    assert not list(partial_files.folder_of("m").glob("*.part")), "the wrong bytes are gone"


def test_a_file_that_is_longer_than_was_said(served):
    repository(served)
    served.faults = [Fault("longer", "config.json", times=-1)]
    model = fetch.add("m", "org/tiny")
    assert fetched(model).state == "failed"
    is_nowhere(model)
    sizes = [path.stat().st_size for path in partial_files.folder_of("m").iterdir()]
    assert max(sizes) <= 400_000


def test_a_half_file_that_was_spoilt_on_the_disk(served):
    content = repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    (weights_file,) = [file for file in fetch.plan(model).files if file.path == "model.safetensors"]
    folder = partial_files.folder_of("m")
    folder.mkdir(parents=True)
    (folder / f"{weights_file.sum}.part").write_bytes(b"\0" * 1000)
    turn(model)
    is_whole(model, content)


def test_a_half_file_that_is_too_long(served):
    content = repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    folder = partial_files.folder_of("m")
    folder.mkdir(parents=True)
    for file in fetch.plan(model).files:
        (folder / f"{file.sum}.part").write_bytes(b"x" * (file.size + 7))
    turn(model)
    is_whole(model, content)


def test_a_server_that_knows_no_ranges(served, monkeypatch):
    from models_registry.hub.scripted import Handler

    content = repository(served)
    served.faults = [Fault("cut", "model.safetensors", after=100_000)]
    send_file = Handler._file

    def whole_file(self, repository, name):
        if "Range" in self.headers:
            del self.headers["Range"]
        send_file(self, repository, name)

    monkeypatch.setattr(Handler, "_file", whole_file)
    model = fetch.add("m", "org/tiny")
    fetched(model)
    is_whole(model, content)


def test_a_disk_that_fills_up(served, monkeypatch):
    content = repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    write = transfer._Part.write

    def full(self, piece):
        if self.size > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, piece)

    with monkeypatch.context() as patched:
        patched.setattr(transfer._Part, "write", full)
        download = turn(model)
    assert (download.state, model.state) == ("failed", "failed")
    assert "no space is left on the disk of" in model.reason
    assert "retry" in model.reason
    assert download.bytes_done > 100_000
    is_nowhere(model)
    fetch.retry(model)
    turn(model)
    is_whole(model, content)
    assert asked_for(served, "model.safetensors")[-1].range


def test_a_model_that_no_engine_could_load(served):
    repository(served, **{"config.json": b"[]"})
    model = fetch.add("m", "org/tiny")
    download = fetched(model)
    assert (download.state, model.state) == ("failed", "failed")
    assert "not a JSON object" in model.reason
    is_nowhere(model)


def test_an_error_of_ours_ends_in_the_row(served, monkeypatch):
    repository(served)
    monkeypatch.setattr(folders, "examine", lambda *_: 1 / 0)
    model = fetch.add("m", "org/tiny")
    assert "this server met an error (ZeroDivisionError)" in fetched(model).reason


def test_a_folder_that_is_in_the_way(served):
    repository(served)
    made_folders.path_of("m").mkdir(parents=True)
    model = fetch.add("m", "org/tiny")
    assert "in the way" in fetched(model).reason
    assert made_folders.path_of("m").exists()


def test_the_hub_has_changed_since(served):
    """What is the same is kept, and the rest is of the new commit."""
    repository(served)
    served.faults = [Fault("status", "tokenizer.json", status=404)]
    model = fetch.add("m", "org/tiny")
    assert fetched(model).state == "failed"
    content = repository(served, **{"model.safetensors": weights(1000, seed=2)})
    before = len(asked_for(served, "config.json"))
    fetch.retry(model)
    turn(model)
    is_whole(model, content)
    assert model.revision == served.commit("org/tiny")
    assert len(asked_for(served, "config.json")) == before


def test_a_gguf_file_becomes_a_folder(served, converter):
    content = repository(served, "org/made")
    repository(served, "org/gguf", **{"deep/m-Q4.gguf": b"GGUF" * 1000, "README.md": b"x" * 5000})
    converter.write_text(
        "import pathlib, shutil, sys\n"
        "assert pathlib.Path(sys.argv[1]).read_bytes() == b'GGUF' * 1000\n"
        "assert sys.argv[1].endswith('.gguf')\n"
        f"shutil.copytree({str(served.folder / 'org/made')!r}, sys.argv[2], dirs_exist_ok=True)\n"
    )
    model = fetch.add("m", "org/gguf", file="deep/m-Q4.gguf")
    download = fetched(model)
    is_whole(model, content)
    assert download.bytes_total == 4000


def test_a_gguf_file_that_cannot_be_converted(served, converter):
    repository(served, "org/gguf", **{"m-Q4.gguf": b"GGUF" * 1000})
    converter.write_text("raise ValueError('what is this')")
    model = fetch.add("m", "org/gguf", file="m-Q4.gguf")
    assert "could not be converted: ValueError: what is this" in fetched(model).reason
    is_nowhere(model)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (download_run, "_claim"),
        (transfer._Part, "settle"),
        (made_folders, "make"),
        (folders, "examine"),
        (download_run.DownloadRun, "_finish"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_killed_at_each_step(served, monkeypatch, owner, name, after):
    content = repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    with killed_in(monkeypatch, owner, name, after):
        turn(model)
    model.refresh_from_db()
    if (name, after) != ("_finish", True):
        assert (model.state, model.source) == ("downloading", "")
        turn(model)
    fetch.sweep()
    is_whole(model, content)


def test_made_but_not_registered_and_then_cancelled(served, monkeypatch):
    repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    with killed_in(monkeypatch, made_folders, "make"):
        turn(model)
    assert made_folders.path_of("m").exists()
    fetch.cancel(model)
    is_nowhere(model)


def test_the_database_is_away_for_a_moment(served, monkeypatch):
    from django.db import OperationalError

    content = repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    claim, failures = download_run._claim, [OperationalError("gone"), OperationalError("gone")]

    def unlucky(*given):
        if failures:
            raise failures.pop()
        return claim(*given)

    monkeypatch.setattr(download_run, "_claim", unlucky)
    monkeypatch.setattr(outages, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(outages, "connection", SimpleNamespace(close=lambda: None))
    tasks.fetch(str(model.pk))
    model.refresh_from_db()
    is_whole(model, content)


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once(served):
    content = repository(served)
    served.rate = 1_000_000
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    errors = []

    def work():
        try:
            download_run.run(model.pk, uuid.uuid4())
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    model.refresh_from_db()
    is_whole(model, content)
    assert Download.objects.get().attempts == 1
    assert len(asked_for(served, "model.safetensors")) == 1


@pytest.mark.django_db(transaction=True)
def test_paused_from_another_process(served, monkeypatch):
    """With rows as others see them, and the usual clock."""
    repository(served, size=3_000_000)
    served.rate = 500_000
    monkeypatch.setattr(download_run, "TICK_SECONDS", 0.5)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)

    def work():
        download_run.run(model.pk, uuid.uuid4())
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 10
    while not Download.objects.filter(state=DownloadState.RUNNING, bytes_per_second__gt=0).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    fetch.pause(model)
    paused = time.monotonic()
    thread.join()
    assert time.monotonic() - paused < 1
    assert Download.objects.get().state == "paused"


def test_the_files_of_a_fetched_model_are_not_writable_through_the_download(served):
    """Links of what is fetched and what is served are the same bytes: nothing of the former may stay."""
    repository(served)
    model = fetch.add("m", "org/tiny")
    fetched(model)
    assert {os.stat(path).st_nlink for path in Path(model.source).rglob("*") if path.is_file()} == {1}
