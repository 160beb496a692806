"""What the disk holds, what of it can go, who may let it go, and that nothing else goes."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from batches.files import blobs, store
from batches.models import File
from models_registry.catalog import disk
from vbs.accounts import roles
from vbs.accounts.models import Project
from vbs.configuration.models import AuditEntry

OLD = 2 * 86400
PAGE = "/system/disk"


@pytest.fixture(autouse=True)
def data(settings, tmp_path):
    """A data folder of its own."""
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }
    for name, folder in (("RUN_DIR", "run"), ("LOG_DIR", "logs"), ("TMP_DIR", "tmp"), ("MODELS_DIR", "models")):
        folder = tmp_path / folder
        folder.mkdir()
        setattr(settings, name, folder)
    return tmp_path


def client(role):
    user = User.objects.create_user(role)
    roles.assign(user, role)
    made = Client()
    made.force_login(user)
    return made


def put(path: Path, size: int = 10, age: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age,) * 2)
    return path


def stored(**fields):
    project, _ = Project.objects.get_or_create(name="project")
    with blobs.scratch() as scratch:
        scratch.write(b"12345")
        scratch.flush()
        file = store.store(project, Path(scratch.name), "a.jsonl", "batch", None)
    File.objects.filter(pk=file.pk).update(**fields)
    file.refresh_from_db()
    return file


def text(response):
    return response.content.decode()


def test_only_what_can_go_goes(db, data):
    kept = [
        put(data / "tmp" / "fresh", age=3600),
        put(data / "tmp" / "folder" / "old", age=OLD),
        put(data / "logs" / "web.log", age=OLD),
        put(data / "logs" / "web.log.mine", age=OLD),
        put(data / "run" / "gpu" / "engine-20260102-000000-001.log", age=OLD),
        put(data / "run" / "gpu" / "engine.json", age=OLD),
        put(data / "models" / "mine" / "weights", age=OLD),
        put(data / "elsewhere", age=OLD),
    ]
    (data / "tmp" / "link").symlink_to(data / "elsewhere")
    os.utime(data / "tmp" / "link", (1, 1), follow_symlinks=False)
    gone = [
        put(data / "tmp" / "old", size=7, age=OLD),
        put(data / "logs" / "web.log.1", size=5),
        put(data / "logs" / "gpu.log.12", size=6),
        put(data / "run" / "gpu" / "engine-20260101-000000-001.log"),
    ]
    here, expired = stored(), stored(expires_at=timezone.now() - timedelta(hours=1))
    names = {cleaner.name for cleaner in disk.CLEANERS}
    done = disk.clean(names)
    assert [path for path in gone if path.exists()] == [] and [path for path in kept if not path.exists()] == []
    assert done["temporary"] == disk.DiskUse(1, 7) and done["logs"] == disk.DiskUse(2, 11)
    assert done["files"] == disk.DiskUse(1, 5) and done["engines"].files == 1
    assert (blobs.folder() / here.blob).exists() and not (blobs.folder() / expired.blob).exists()
    expired.refresh_from_db()
    assert expired.purged_at
    assert all(use.files == 0 for use in disk.clean(names).values()), "a second time there is nothing left"


def test_only_what_is_named_goes(db, data):
    one, other = put(data / "tmp" / "old", age=OLD), put(data / "logs" / "io.log.1")
    assert set(disk.clean({"logs"})) == {"logs"}
    assert one.exists() and not other.exists()


def test_cleaning_ends_in_time(db, data, monkeypatch):
    for number in range(5):
        put(data / "logs" / f"io.log.{number}")
    monkeypatch.setattr(disk, "CLEAN_SECONDS", -1)
    assert disk.clean({"logs"}) == {"logs": disk.DiskUse(0, 0, more=True)}


def test_a_folder_is_measured_without_following_links_and_in_time(data, monkeypatch):
    put(data / "models" / "a" / "b", size=1000)
    (data / "models" / "loop").symlink_to(data)
    found = disk.measure(data / "models")
    assert found.files == 2 and 1000 <= found.bytes < 1500
    assert disk.measure(data / "nothing") == disk.DiskUse()
    monkeypatch.setattr(disk, "LOOK_SECONDS", -1)
    assert disk.measure(data / "models").more


def test_the_page(db, data):
    put(data / "logs" / "io.log.1", size=3 * 2**20)
    stored(status="deleted", deleted_at=timezone.now() - timedelta(days=1))
    operator = client("operator")
    page = text(operator.get(PAGE))
    for words in ("Database", "Models", "Files of batches", "Rotated logs", "3 MiB", "cannot be brought back"):
        assert words in page
    assert (data / "logs" / "io.log.1").exists(), "looking deletes nothing"
    done = operator.post(PAGE, {"what": ["logs", "files"]}, follow=True)
    assert "2 files are deleted, and 3 MiB are free again" in text(done)
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.username) == ("disk.clean", "operator") and "logs: 1 files" in entry.detail
    assert "Nothing: what is not needed has gone" in text(operator.get(PAGE))


def test_who_may(db, data):
    log = put(data / "logs" / "io.log.1")
    viewer = client("viewer")
    assert viewer.get(PAGE).status_code == viewer.post(PAGE, {"what": "logs"}).status_code == 403
    assert Client().post(PAGE, {"what": "logs"}).status_code == 302 and log.exists()
    operator = client("operator")
    for wrong in ({}, {"what": "everything"}, {"what": ["logs", "../../etc"]}):
        assert operator.post(PAGE, wrong).status_code == 422
    assert log.exists() and not AuditEntry.objects.exists() and operator.delete(PAGE).status_code == 405
