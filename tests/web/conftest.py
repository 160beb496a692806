import os
import re
import subprocess
import sys
import threading

import httpx
import pytest
from django.conf import settings
from django.db import connection

from tests.web.tiny import Server
from vbs.accounts.models import ApiKey, Project


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("spool"))
    yield server
    server.stop()


@pytest.fixture(scope="package")
def address(tmp_path_factory, django_db_setup, django_db_blocker):
    """`manage.py web` on the database of the tests."""
    data = tmp_path_factory.mktemp("data")
    database = connection.settings_dict
    url = f"postgresql:///{database['NAME']}?host={database['HOST']}&port={database['PORT']}&user={database['USER']}"
    environment = os.environ | {
        "VBS_DATA_DIR": str(data),
        "DJANGO_SETTINGS_MODULE": "vbs.settings",
        "DATABASE_URL": settings.DATABASE_URL or url,
        "VBS_DB_POOL": "true",
        "VBS_SECRET_KEY": settings.SECRET_KEY,
        "VBS_MAX_FILE_MB": "8",
        "VBS_LOG_FORMAT": "json",
    }
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "web", "--port", "0"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    said, listens = [], threading.Event()

    def read():
        for line in process.stderr:
            said.append(line)
            if "listening on" in line:
                listens.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert listens.wait(60), said
        yield re.search(r"listening on (http://[^\"\s]+)", "".join(said))[1]
    finally:
        process.terminate()
        process.wait(20)
        reader.join()
        process.stderr.close()
    failures = [line for line in said if '"level": "ERROR"' in line]
    assert not failures


@pytest.fixture
def key(transactional_db):
    return ApiKey.objects.issue(Project.objects.create(name="one"), "k")[1]


@pytest.fixture
def http(address, key):
    with httpx.Client(base_url=f"{address}/v1", headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        yield client
