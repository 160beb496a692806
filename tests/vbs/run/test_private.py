"""Other users of the machine read nothing of what users of this server sent, and PostgreSQL gets to its own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vbs.checks import the_data_folder_is_closed
from vbs.run import private

NOBODY = 65534


@pytest.fixture
def data():
    """Not tmp_path, which others cannot reach anyhow."""
    with tempfile.TemporaryDirectory(prefix="vbs-private-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "data"


def modes(data):
    return {str(path.relative_to(data)): oct(path.stat().st_mode & 0o7777) for path in data.rglob("*")}


CLOSED = dict.fromkeys(private.FOLDERS, "0o700")


def test_folders_are_made_closed(data):
    private.close(data)
    assert modes(data) == dict.fromkeys(private.MADE, "0o700") and data.stat().st_mode & 0o777 == 0o711
    private.close(data, private.FOLDERS)
    assert modes(data) == CLOSED and data.stat().st_mode & 0o777 == 0o711


def of_an_earlier_version(data):
    for name in (*private.FOLDERS, "models", "static"):
        (data / name).mkdir(parents=True)
        (data / name).chmod(0o755)
    for name in ("logs/web.log", "logs/io.log.1", "files/file-1", "models/config.json"):
        (data / name).write_text("a prompt")
        (data / name).chmod(0o644)
    data.chmod(0o755)


def test_folders_of_an_earlier_version_are_mended(data):
    of_an_earlier_version(data)
    assert len(private.readable(data)) == 1 + len(private.FOLDERS) + 2
    for _ in range(2):
        private.close(data)
        assert data.stat().st_mode & 0o777 == 0o711 and private.readable(data) == []
        assert modes(data) == CLOSED | {
            "models": "0o755", "static": "0o755", "logs/web.log": "0o600", "logs/io.log.1": "0o600",
            "files/file-1": "0o644", "models/config.json": "0o644",
        }  # fmt: skip


def test_what_is_closed_further_stays_so(data):
    private.close(data, private.FOLDERS)
    data.chmod(0o2700)
    (data / "logs").chmod(0o500)
    private.close(data)
    assert (data.stat().st_mode & 0o7777, (data / "logs").stat().st_mode & 0o777) == (0o2700, 0o500)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_else_reads_nothing_and_passes_through(data):
    of_an_earlier_version(data)
    (data / "postgres").mkdir(mode=0o700)
    os.chown(data / "postgres", NOBODY, NOBODY)

    def may(*command):
        return subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True).returncode == 0

    assert may("cat", data / "files" / "file-1") and may("ls", data)
    private.close(data)
    for path in ("files/file-1", "logs/web.log", "logs/io.log.1"):
        assert not may("cat", data / path)
    for path in ("", "files", "logs", "run", "tmp"):
        assert not may("ls", data / path) and not may("touch", data / path / "new")
    assert may("touch", data / "postgres" / "PG_VERSION") and may("cat", data / "models" / "config.json")


def test_every_start_closes_them(data):
    of_an_earlier_version(data)
    environment = {"PATH": "/usr/bin:/bin", "VBS_DATA_DIR": str(data)}
    subprocess.run([sys.executable, "-c", "from vbs import settings"], env=environment, check=True)
    assert private.readable(data) == []


def test_what_cannot_be_closed_is_told(data, settings, monkeypatch):
    settings.VBS_DATA_DIR = data
    of_an_earlier_version(data)

    def refuse(self, mode):
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(Path, "chmod", refuse)
        private.close(data)
    warnings = the_data_folder_is_closed()
    assert {one.id for one in warnings} == {"vbs.W003"} and str(data / "files") in warnings[1].msg
    private.close(data)
    assert the_data_folder_is_closed() == []
