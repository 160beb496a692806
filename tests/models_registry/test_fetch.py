"""Models of a hub: registered, planned, fetched whole or not at all, whatever the network and the disk do."""

import errno
import json
import os
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.db import connection
from django.db.models.functions import Now
from django_q.models import OrmQ

from models_registry import tasks
from models_registry.catalog import add, folders, made_folders, parts, remove
from models_registry.catalog.folders import ModelError
from models_registry.hub import download_run, tokens, transfer
from models_registry.hub import downloads as fetch
from models_registry.hub.scripted import Fault
from models_registry.models import Download, DownloadState, Model, ModelState
from tests.converter import stand_in
from tests.models_registry.hubs import CONFIG, repository, running, weights
from vbs.database import outages
from vbs.run import space

pytestmark = pytest.mark.django_db
TOKEN = "hf_0123456789"


@pytest.fixture
def served(tmp_path, settings, monkeypatch):
    with running(tmp_path, settings, monkeypatch) as found:
        yield found


@pytest.fixture
def stopping(monkeypatch):
    monkeypatch.setattr(outages, "stopping", threading.Event())
    return outages.stopping


def turn(model):
    download_run.run(model.pk, uuid.uuid4())
    model.refresh_from_db()
    return Download.objects.get(model=model)


def fetched(model):
    fetch.start(model)
    return turn(model)


def is_whole(model, content, left=()):
    """The model is ready, and its folder has just this content."""
    assert (model.state, model.reason) == (ModelState.READY, ""), model.reason
    folder = Path(model.source)
    assert made_folders.is_ours(folder)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop(made_folders.ORIGIN)
    assert found == {path: data for path, data in content.items() if path not in left}
    assert not parts.folder_of(model.name).exists()


def is_nowhere(model):
    """Nothing of it can be taken for a model."""
    assert model.source == ""
    assert not made_folders.path_of(model.name).exists()


def asked_for(served, path):
    return [asked for asked in served.asked if asked.path.endswith(f"/{path}") and asked.path.startswith("/org")]


def during(monkeypatch, act, at=100_000):
    """Have something done once, by somebody else, as soon as so many bytes have come."""
    write_down, done = download_run.DownloadRun._write_down, []

    def also_act(self):
        if self.done >= at and not done:
            done.append(True)
            act()
        return write_down(self)

    monkeypatch.setattr(download_run.DownloadRun, "_write_down", also_act)


# Registering


def test_a_draft_asks_nothing_of_the_network(settings):
    settings.VBS_HUB_URL = "http://127.0.0.1:9"
    model = fetch.add("m", "org/tiny", revision="v1", engine_args={"max-model-len": 100}, notes="n", license="mit")
    model.refresh_from_db()
    assert (model.state, model.kind, model.source, model.task) == ("draft", "vllm", "", "chat")
    assert (model.hub_id, model.hub_revision, model.engine_args) == ("org/tiny", "v1", {"max-model-len": 100})
    assert (model.notes, model.license) == ("n", "mit")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hub_id": ""}, "not the id"),
        ({"hub_id": "a/b/c"}, "not the id"),
        ({"hub_id": "../etc"}, "not the id"),
        ({"hub_id": "org/..x"}, "not the id"),
        ({"hub_id": "org/m\n"}, "not the id"),
        ({"hub_id": "org/m?x=1"}, "not the id"),
        ({"revision": "../x"}, "not the name of a branch"),
        ({"revision": "a b"}, "not the name of a branch"),
        ({"revision": "x" * 201}, "not the name of a branch"),
        ({"file": "model.bin"}, "not a .gguf file"),
        ({"file": "../m.gguf"}, "cannot have a file"),
        ({"file": "m-00001-of-00003.gguf"}, "one of several parts"),
        ({"name": "../m"}, "cannot be a model's name"),
        ({"name": ":" * 199}, "cannot be a model's name"),
        ({"name": "m" + ":" * 150}, "too long"),
        ({"task": "sing"}, "unknown task"),
        ({"engine_args": {"no-such-option": 1}}, "no-such-option"),
        ({"license": "x" * 101}, "licence"),
    ],
)
def test_what_cannot_be_registered(given, words):
    with pytest.raises(ModelError, match=words):
        fetch.add(**{"name": "m", "hub_id": "org/tiny"} | given)
    assert not Model.objects.exists()


def test_two_of_one_name():
    fetch.add("m", "org/tiny")
    with pytest.raises(ModelError, match="there is a model m already"):
        fetch.add("m", "org/other")


# Planning


def test_a_plan_says_what_it_takes_and_changes_nothing(served):
    content = repository(served, **{"pytorch_model.bin": b"x" * 1000, "picture.png": b"x"})
    model = fetch.add("m", "org/tiny")
    plan = fetch.plan(model)
    taken = {path: len(data) for path, data in content.items() if path not in ("pytorch_model.bin", "picture.png")}
    assert {file.path: file.size for file in plan.files} == taken
    assert (plan.bytes, plan.present, plan.need) == (sum(taken.values()), 0, sum(taken.values()))
    assert (plan.commit, plan.license, plan.gated) == (served.commit("org/tiny"), "apache-2.0", False)
    assert not Download.objects.exists()
    assert Model.objects.get().state == ModelState.DRAFT


def test_a_plan_for_what_is_not_registered_yet(served):
    repository(served)
    assert fetch.plan(Model(name="m", hub_id="org/tiny")).bytes
    with pytest.raises(ModelError, match="not the id"):
        fetch.plan(Model(name="m", hub_id="../../api"))


def test_what_is_there_twice_is_fetched_once(served):
    content = repository(served, **{"vocab.json": b"{}"})  # as tokenizer.json
    model = fetch.add("m", "org/tiny")
    assert fetch.plan(model).bytes == sum(map(len, content.values())) - 2
    fetched(model)
    is_whole(model, content)


def test_a_model_that_is_not_of_a_hub():
    model = add.add("m", "scripted:")
    for act in (fetch.plan, fetch.start):
        with pytest.raises(ModelError, match="not from a hub"):
            act(model)


def test_the_disk_is_too_small(served, monkeypatch):
    repository(served)
    model = fetch.add("m", "org/tiny")
    free = fetch.plan(model).need + space.RESERVE
    monkeypatch.setattr(fetch, "_disk_free", lambda: free - 1)
    assert not fetch.plan(model).fits
    with pytest.raises(ModelError, match=r"cannot hold m: it needs 0\.3 MiB and 1\.0 GiB stay free"):
        fetch.start(model)
    assert not Download.objects.exists()
    monkeypatch.setattr(fetch, "_disk_free", lambda: free)
    fetch.start(model)
    other = fetch.add("other", "org/tiny")
    with pytest.raises(ModelError, match=r"other downloads still need 0\.3 MiB"):
        fetch.start(other)


def test_a_gguf_file_needs_room_for_what_it_becomes(served):
    repository(served, "org/gguf", **{"m-Q4_K_M.gguf": b"GGUF" * 1000, "m-BF16.gguf": b"GGUF" * 1000})
    for file, bits in (("m-Q4_K_M.gguf", 4), ("m-BF16.gguf", 16)):
        plan = fetch.plan(Model(name="m", hub_id="org/gguf", hub_file=file))
        assert [one.path for one in plan.files] == [file]
        assert (plan.bytes, plan.need) == (4000, 4000 + 4000 * 16 // bits)


def test_a_gated_model_is_refused_before_it_begins(served, settings):
    content = repository(served)
    served.gated, served.tokens = {"org/tiny"}, {TOKEN}
    model = fetch.add("m", "org/tiny")
    assert fetch.plan(model).gated
    with pytest.raises(ModelError, match="ask for access"):
        fetch.start(model)
    assert Model.objects.get().state == ModelState.DRAFT
    settings.HF_TOKEN = TOKEN
    fetched(model)
    is_whole(model, content)
    assert {asked.token for asked in asked_for(served, "config.json") if asked.method == "GET"} == {TOKEN}


def test_access_that_is_withdrawn_meanwhile(served, settings):
    repository(served)
    served.tokens, settings.HF_TOKEN = {TOKEN}, TOKEN
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    served.tokens = {"another"}
    download = turn(model)
    assert (download.state, model.state) == ("failed", "failed")
    assert "does not accept the access token" in model.reason == download.reason
    assert TOKEN not in model.reason


def test_a_token_that_cannot_be_read_any_more(served, settings):
    repository(served)
    model = fetch.add("m", "org/tiny", token=tokens.keep("mine", TOKEN))
    served.tokens = {TOKEN}
    fetch.start(model)
    settings.SECRET_KEY = "another"
    assert "mine cannot be read" in turn(model).reason


def test_pickles_and_code_only_when_they_are_trusted(served, settings):
    settings.VBS_TRUST_REMOTE_CODE = True
    content = repository(served, **{"model.safetensors": None, "pytorch_model.bin": b"x", "modeling.py": b"x"})
    with pytest.raises(ModelError, match="pickles only"):
        fetch.start(fetch.add("m", "org/tiny"))
    trusting = fetch.add("trusting", "org/tiny", allow_pickle=True, trust_remote_code=True)
    fetched(trusting)
    is_whole(trusting, content)


def test_names_that_lead_elsewhere(served, tmp_path):
    repository(served)
    for path in ("../../../escaped.jinja", "/escaped.jinja", "a\0b.jinja"):
        served.extra = [{"rfilename": path, "size": 1, "blobId": "0" * 40}]
        with pytest.raises(ModelError, match="cannot have a file of that name"):
            fetch.start(fetch.add(f"m{len(path)}", "org/tiny"))
    assert not list(tmp_path.rglob("escaped*"))


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
    assert not list(parts.folder_of("m").glob("*.part")), "the wrong bytes are gone"


def test_a_file_that_is_longer_than_was_said(served):
    repository(served)
    served.faults = [Fault("longer", "config.json", times=-1)]
    model = fetch.add("m", "org/tiny")
    assert fetched(model).state == "failed"
    is_nowhere(model)
    sizes = [path.stat().st_size for path in parts.folder_of("m").iterdir()]
    assert max(sizes) <= 400_000


def test_a_half_file_that_was_spoilt_on_the_disk(served):
    content = repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    (weights_file,) = [file for file in fetch.plan(model).files if file.path == "model.safetensors"]
    folder = parts.folder_of("m")
    folder.mkdir(parents=True)
    (folder / f"{weights_file.sum}.part").write_bytes(b"\0" * 1000)
    turn(model)
    is_whole(model, content)


def test_a_half_file_that_is_too_long(served):
    content = repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    folder = parts.folder_of("m")
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


@pytest.fixture
def converter(tmp_path, settings):
    """Stands in for the real one, which takes seconds."""
    program = stand_in(tmp_path / "base")
    settings.BASE_DIR = tmp_path / "base"
    return program


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


# Pausing, cancelling, stopping


def test_paused_and_resumed(served, monkeypatch):
    content = repository(served)
    served.rate = 100_000
    model = fetch.add("m", "org/tiny")
    during(monkeypatch, lambda: fetch.pause(model))
    started = time.monotonic()
    download = fetched(model)
    assert time.monotonic() - started < 2, "it does not wait for the rest"
    assert (download.state, model.state) == ("paused", "downloading")
    assert 100_000 <= download.bytes_done < 300_000
    assert download.leased_by is None
    assert turn(model).state == "paused", "nobody takes it up"
    with pytest.raises(ModelError, match="paused: resume it"):
        fetch.start(model)
    served.rate = 0
    fetch.resume(model)
    turn(model)
    is_whole(model, content)
    assert asked_for(served, "model.safetensors")[-1].range, "what had come was kept"


def test_paused_while_nothing_comes(served, monkeypatch):
    from models_registry.hub import client

    repository(served)
    monkeypatch.setattr(client, "SILENT_SECONDS", 60)
    served.faults = [Fault("stall", "model.safetensors", after=100_000, times=-1)]
    model = fetch.add("m", "org/tiny")
    during(monkeypatch, lambda: fetch.pause(model))
    started = time.monotonic()
    assert fetched(model).state == "paused"
    assert time.monotonic() - started < 1.5


def test_paused_before_the_next_attempt(served, monkeypatch):
    repository(served)
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 60)
    monkeypatch.setattr(transfer, "LONGEST_PAUSE", 60)
    served.faults = [Fault("cut", "model.safetensors", after=100_000, times=-1)]
    model = fetch.add("m", "org/tiny")
    during(monkeypatch, lambda: fetch.pause(model))
    started = time.monotonic()
    assert fetched(model).state == "paused"
    assert time.monotonic() - started < 1.5


def test_cancelled_in_the_middle(served, monkeypatch):
    content = repository(served)
    served.rate = 400_000
    model = fetch.add("m", "org/tiny")
    during(monkeypatch, lambda: fetch.cancel(model))
    download = fetched(model)
    assert (download.state, model.state, model.reason) == ("cancelled", "draft", "")
    assert not parts.folder_of("m").exists()
    is_nowhere(model)
    served.rate = 0
    fetched(model)
    is_whole(model, content)


def test_cancelled_when_it_was_all_but_ready(served, monkeypatch):
    repository(served)
    model = fetch.add("m", "org/tiny")
    finish = download_run.DownloadRun._finish

    def too_late(self, facts):
        fetch.cancel(model)
        finish(self, facts)

    monkeypatch.setattr(download_run.DownloadRun, "_finish", too_late)
    download = fetched(model)
    assert (download.state, model.state) == ("cancelled", "draft")
    is_nowhere(model)
    assert not parts.folder_of("m").exists()


@pytest.mark.parametrize("state", ["queued", "paused", "failed"])
def test_cancelled_while_nobody_works_on_it(served, state):
    repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    Download.objects.update(state=state)
    parts.folder_of("m").mkdir(parents=True)
    fetch.cancel(model)
    assert (model.state, Download.objects.get().state) == ("draft", "cancelled")
    assert not parts.folder_of("m").exists()


def test_cancelled_where_what_has_come_cannot_be_removed(served, monkeypatch, caplog):
    """It is cancelled then; who hears of an error would ask again, and hear that it cannot be cancelled."""

    def fail(folder):
        raise OSError("the disk does not answer")

    repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    monkeypatch.setattr(made_folders, "lock", fail)
    fetch.cancel(model)
    assert Download.objects.get().state == "cancelled" and "the disk does not answer" in caplog.text


def test_removed_in_the_middle(served, monkeypatch):
    repository(served)
    served.rate = 400_000
    model = fetch.add("m", "org/tiny")
    during(monkeypatch, lambda: Model.objects.all().delete())
    fetch.start(model)
    download_run.run(model.pk, uuid.uuid4())
    assert not parts.folder_of("m").exists()
    assert not made_folders.path_of("m").exists()


def test_stopped_with_its_worker(served, monkeypatch, stopping):
    content = repository(served)
    served.rate = 400_000
    model = fetch.add("m", "org/tiny")
    during(monkeypatch, stopping.set)
    started = time.monotonic()
    download = fetched(model)
    assert time.monotonic() - started < 1
    assert (download.state, download.leased_by, model.state) == ("queued", None, "downloading")
    assert download.bytes_done >= 100_000
    stopping.clear()
    served.rate = 0
    turn(model)
    is_whole(model, content)


def test_a_long_download_gives_its_turn_back(served, monkeypatch, settings):
    content = repository(served)
    served.rate = 400_000
    for name in ("TURN_SECONDS", "ALONE_TURN_SECONDS"):
        monkeypatch.setattr(download_run, name, 0.2)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    OrmQ.objects.all().delete()
    download = turn(model)
    assert (download.state, download.leased_by) == ("queued", None)
    assert 0 < download.bytes_done < 300_000
    assert OrmQ.objects.filter(key="io").count() == 1, "somebody goes on"
    settings.VBS_IO_WORKERS = 1  # which has other things to do as well
    before = download.bytes_done
    download = turn(model)
    assert (download.state, download.bytes_done > before) == ("queued", True)
    monkeypatch.setattr(download_run, "ALONE_TURN_SECONDS", 60)
    served.rate = 0
    turn(model)
    is_whole(model, content)


def test_progress_and_lease_are_written_down(served, monkeypatch):
    repository(served)
    served.rate = 400_000
    model = fetch.add("m", "org/tiny")
    seen = []
    during(monkeypatch, lambda: seen.append(Download.objects.get()), at=200_000)
    fetched(model)
    (download,) = seen
    assert download.state == "running"
    assert 100_000 < download.bytes_done < download.bytes_total
    assert 200_000 < download.bytes_per_second < 800_000
    assert download.leased_until is not None


def test_what_a_state_does_not_allow(served):
    repository(served)
    model = fetch.add("m", "org/tiny")
    for act in (fetch.pause, fetch.resume, fetch.cancel, fetch.retry):
        with pytest.raises(ModelError, match=r"no download.*draft"):
            act(model)
    fetch.start(model)
    for act in (fetch.resume, fetch.retry):
        with pytest.raises(ModelError, match="is queued"):
            act(model)
    fetch.pause(model)
    with pytest.raises(ModelError, match="is paused: it cannot be paused"):
        fetch.pause(model)
    fetch.resume(model)
    turn(model)
    for act in (fetch.pause, fetch.resume, fetch.cancel, fetch.retry):
        with pytest.raises(ModelError, match="is done"):
            act(model)
    with pytest.raises(ModelError, match="is ready"):
        fetch.start(model)


def test_start_twice(served):
    repository(served)
    model = fetch.add("m", "org/tiny")
    first, second = fetch.start(model), fetch.start(Model.objects.get())
    assert first == second
    assert Download.objects.count() == 1


# Leases and the queue


def test_only_one_at_a_time_has_it(served):
    repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    first, second = uuid.uuid4(), uuid.uuid4()
    assert download_run._claim(model.pk, first).attempts == 1
    assert download_run._claim(model.pk, second) is None
    assert download_run._claim(model.pk, first), "from before the database was away"
    Download.objects.update(leased_until=Now())
    assert download_run._claim(model.pk, second).attempts == 3
    assert download_run._claim(model.pk, first) is None


@pytest.mark.parametrize(("downloads", "workers", "most"), [(1, 4, 1), (3, 4, 3), (9, 4, 3), (9, 2, 1), (1, 1, 1)])
def test_so_many_at_once(served, settings, downloads, workers, most):
    settings.VBS_DOWNLOADS, settings.VBS_IO_WORKERS = downloads, workers
    repository(served)
    models = [fetch.add(f"m{number}", "org/tiny") for number in range(5)]
    for model in models:
        fetch.start(model)
    assert [download_run._claim(model.pk, uuid.uuid4()) is not None for model in models].count(True) == most


def test_whoever_ends_wakes_the_next(served):
    repository(served)
    first, second = fetch.add("first", "org/tiny"), fetch.add("second", "org/tiny")
    fetch.start(first)
    fetch.start(second)
    OrmQ.objects.all().delete()
    turn(first)
    assert [one.args() for one in OrmQ.objects.filter(key="io")] == [(str(second.pk),)]


def test_the_sweep_wakes_and_cleans(served):
    repository(served)
    models = {name: fetch.add(name, "org/tiny") for name in ("lost", "queued", "failed", "done", "draft")}
    for name in ("lost", "queued", "failed", "done"):
        fetch.start(models[name])
    Download.objects.filter(model=models["lost"]).update(state="running", leased_by=uuid.uuid4(), leased_until=Now())
    for name in ("failed", "done"):
        Download.objects.filter(model=models[name]).update(state=name)
    for name in (*models, "gone"):
        parts.folder_of(name).mkdir(parents=True)
    OrmQ.objects.all().delete()
    fetch.sweep()
    assert [one.args() for one in OrmQ.objects.all()] == [(str(models["lost"].pk),)], "the oldest; one at once"
    assert {path.name for path in parts.folder_of("x").parent.iterdir()} == {"lost", "queued", "failed"}


def test_what_somebody_else_works_on_waits(served):
    repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    with made_folders.lock(made_folders.path_of("m")):
        download = turn(model)
    assert (download.state, model.state) == ("running", "downloading")
    assert not asked_for(served, "config.json")
    Download.objects.update(leased_until=Now())
    assert turn(model).state == "done"


@contextmanager
def killed_in(monkeypatch, owner, name, after=True):
    """The process is gone when it has called this (or before)."""

    class Killed(BaseException):
        pass

    real = getattr(owner, name)

    def last(*given, **named):
        if after:
            real(*given, **named)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, last)
        with pytest.raises(Killed):
            yield
    Download.objects.update(leased_until=Now())


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
