import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from django.conf import settings
from django.db import connection

from tests.vbs.web.tiny import Server, spooled
from vbs.accounts.models import ApiKey, Project


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("spool"))
    yield server
    server.stop()


class Door:
    """`manage.py web` on the database of the tests."""

    def __init__(self, data: Path) -> None:
        self.data = data
        database = connection.settings_dict
        url = (
            f"postgresql:///{database['NAME']}?host={database['HOST']}&port={database['PORT']}&user={database['USER']}"
        )
        environment = os.environ | {
            "VBS_DATA_DIR": str(data),
            "DJANGO_SETTINGS_MODULE": "vbs.settings",
            "DATABASE_URL": settings.DATABASE_URL or url,
            "VBS_DB_POOL": "true",
            "VBS_SECRET_KEY": settings.SECRET_KEY,
            "VBS_MAX_FILE_MB": "8",
            "VBS_LOG_FORMAT": "json",
        }
        manage = [sys.executable, str(settings.BASE_DIR / "manage.py")]
        subprocess.run([*manage, "collectstatic", "--noinput", "-v0"], env=environment, check=True, timeout=120)
        command = ["prlimit", "--nofile=512:4096", *manage, "web", "--port", "0"]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.stderr = self.process.stderr
        self.said: list[str] = []
        self.listens = threading.Event()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.listens.wait(60)
        found = re.search(r"listening on (http://[^\"\s]+)", "".join(self.said))
        if found is None:
            self.stop()
            pytest.fail("".join(self.said))
        self.url = found[1]

    def _read(self) -> None:
        for line in self.stderr:
            self.said.append(line)
            if "listening on" in line:
                self.listens.set()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.reader.join()
        self.stderr.close()

    def failures(self) -> list[str]:
        """What it logged as errors; that no worker runs, which /ready says, is none of them."""
        return [line for line in self.said if '"level": "ERROR"' in line and "Unavailable: /ready" not in line]

    def spooled(self) -> int:
        return spooled(self.process.pid, self.data)

    def connections(self) -> list[Any]:
        return psutil.Process(self.process.pid).net_connections("tcp4")[1:]  # the first is where it listens


@pytest.fixture(scope="package")
def door(tmp_path_factory, django_db_setup, django_db_blocker):
    door = Door(tmp_path_factory.mktemp("data"))
    yield door
    door.stop()
    assert not door.failures()


@pytest.fixture
def address(door):
    return door.url


@pytest.fixture
def key(transactional_db):
    return ApiKey.objects.issue(Project.objects.create(name="one"), "k")[1]


@pytest.fixture
def http(address, key):
    with httpx.Client(base_url=f"{address}/v1", headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        yield client
