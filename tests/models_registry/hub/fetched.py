"""Models that are fetched from a hub on loopback, and looked at, for tests."""

import threading
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db.models.functions import Now

from models_registry.catalog import made_folders, partial_files
from models_registry.hub import download_run
from models_registry.hub import downloads as fetch
from models_registry.models import Download, ModelState
from tests.converter import stand_in
from tests.models_registry.hubs import running
from vbs.database import outages

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
    assert not partial_files.folder_of(model.name).exists()


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


@pytest.fixture
def converter(tmp_path, settings):
    """Stands in for the real one, which takes seconds."""
    program = stand_in(tmp_path / "base")
    settings.BASE_DIR = tmp_path / "base"
    return program


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
