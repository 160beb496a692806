"""A download is paused, resumed, cancelled, stopped with its worker, or gives its turn back."""

import time
import uuid

import pytest
from django_q.models import OrmQ

from models_registry.catalog import made_folders, partial_files
from models_registry.catalog.folders import ModelError
from models_registry.hub import download_run, transfer
from models_registry.hub import downloads as fetch
from models_registry.hub.scripted import Fault
from models_registry.models import Download, Model
from tests.models_registry.hub.fetched import asked_for, during, fetched, is_nowhere, is_whole, turn
from tests.models_registry.hubs import repository

pytestmark = pytest.mark.django_db


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
    assert not partial_files.folder_of("m").exists()
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
    assert not partial_files.folder_of("m").exists()


@pytest.mark.parametrize("state", ["queued", "paused", "failed"])
def test_cancelled_while_nobody_works_on_it(served, state):
    repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    Download.objects.update(state=state)
    partial_files.folder_of("m").mkdir(parents=True)
    fetch.cancel(model)
    assert (model.state, Download.objects.get().state) == ("draft", "cancelled")
    assert not partial_files.folder_of("m").exists()


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
    assert not partial_files.folder_of("m").exists()
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
