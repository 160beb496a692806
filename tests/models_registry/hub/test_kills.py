"""kill -9 at random instants while a model is fetched: the next worker goes on, and what is ready is whole.

The instants are seeded; the seed is in the test's name, and each kill is printed.
"""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.db.models.functions import Now

from models_registry.catalog import made_folders, partial_files
from models_registry.hub import download_run, downloads
from models_registry.models import Download, Model
from tests.amount import few
from tests.converter import stand_in
from tests.engines import until
from tests.models_registry.hub.fetched import asked_for, is_whole
from tests.models_registry.hubs import repository

pytestmark = pytest.mark.django_db(transaction=True)

WORKER = """
import sys, uuid
from pathlib import Path
import django
django.setup()
from django.conf import settings
from models_registry.hub import download_run
settings.BASE_DIR = Path(sys.argv[2])  # where the converter is
print("ready", flush=True)
download_run.run(int(sys.argv[1]), uuid.uuid4())
"""
KILLS = 4


def worker(model, served, data, base=django_settings.BASE_DIR):
    database = connection.settings_dict
    parts = {"host": database["HOST"], "port": database["PORT"], "user": database["USER"]}
    options = "&".join(f"{name}={value}" for name, value in parts.items() if value)
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "vbs.settings",
        "DATABASE_URL": f"postgresql:///{database['NAME']}?{options}",
        "VBS_DATA_DIR": str(data),
        "VBS_HUB_URL": served.url,
        "HF_TOKEN": "",
    }
    command = [sys.executable, "-c", WORKER, str(model.pk), str(base)]
    return subprocess.Popen(
        command, cwd=django_settings.BASE_DIR, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("seed", few(range(2)))
def test_killed_again_and_again(served, tmp_path, seed):
    generator = random.Random(seed)
    content = repository(served, size=4_000_000, **{"1_Pooling/config.json": b'{"a": 1}', "a.json": b"[]"})
    served.rate = 1_500_000
    model = downloads.add("org/tiny", "org/tiny")
    downloads.start(model)
    total = sum(map(len, content.values()))
    for kill in range(KILLS):
        with worker(model, served, tmp_path) as process:
            assert process.stdout.readline() == b"ready\n", process.stderr.read()
            instant = generator.uniform(0.05, 1.2)
            if kill == 0:  # each of the others may come before the first byte
                until(
                    lambda: any(
                        part.stat().st_size > 100_000 for part in partial_files.folder_of("org/tiny").rglob("*.part")
                    )
                )
            time.sleep(instant)
            process.send_signal(signal.SIGKILL)
        done = Download.objects.get()
        print(f"kill -9 after {instant:.2f} s: {done.state}, {done.bytes_done:,} of {total:,} bytes")
        model.refresh_from_db()
        if model.state == "ready":
            break
        assert model.source == ""
        Download.objects.update(leased_until=Now())  # as half a minute later
    served.rate = 0
    download_run.run(model.pk, uuid.uuid4())
    downloads.sweep()
    model.refresh_from_db()
    is_whole(model, content)
    left = [path.name for path in (made_folders.path_of("x").parent / ".import").iterdir()]
    assert all(name.endswith("%lock") for name in left), left
    ranges = [asked.range for asked in asked_for(served, "model.safetensors")]
    assert any(ranges), "it went on where it was"


def test_killed_while_it_converts(served, tmp_path, settings):
    """The child that is left behind keeps the lock; when it has ended, the next worker converts anew."""
    repository(served, "org/gguf", **{"m-Q4.gguf": b"GGUF" * 1000})
    content = repository(served, "org/made")
    program = stand_in(tmp_path / "base")
    program.write_text(
        "import os, pathlib, sys, time\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(os.getpid()))\n"
        "pathlib.Path(sys.argv[2], 'half').touch()\n"
        "time.sleep(60)\n"
    )
    model = downloads.add("m", "org/gguf", file="m-Q4.gguf")
    downloads.start(model)
    with worker(model, served, tmp_path, tmp_path / "base") as process:
        deadline = time.monotonic() + 20
        while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        child = int((tmp_path / "child").read_text())
    Download.objects.update(leased_until=Now())
    download_run.run(model.pk, uuid.uuid4())
    assert Download.objects.get().state == "running", "the lock is still held: it waits"
    os.kill(child, signal.SIGKILL)
    settings.BASE_DIR = tmp_path / "base"
    program.write_text(
        f"import shutil, sys\nshutil.copytree({str(served.folder / 'org/made')!r}, sys.argv[2], dirs_exist_ok=True)\n"
    )
    deadline = time.monotonic() + 10
    while Model.objects.get().state != "ready":
        assert time.monotonic() < deadline
        Download.objects.update(leased_until=Now())
        download_run.run(model.pk, uuid.uuid4())
    model.refresh_from_db()
    is_whole(model, content)
    assert not (Path(model.source) / "half").exists()
