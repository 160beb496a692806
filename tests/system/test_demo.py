"""`manage.py demo` with a stack of its own: it ends well, or badly, or is interrupted, and leaves nothing running."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.amount import few
from vbs.run import leftovers, postgres
from vbs.run.stack import BASE_DIR, Stack, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
COMMAND = [sys.executable, str(BASE_DIR / "manage.py")]


@pytest.fixture(scope="module")
def data():
    """A data folder with the demo's model, which is a scripted one here. It loads for longer than lines are apart."""
    folder = Path(tempfile.mkdtemp(prefix="vbs-demo-"))
    folder.chmod(0o711)
    try:
        with Stack(folder, port=free_port()) as stack:
            add = [*COMMAND, "model", "add", "smollm2-135m", "scripted:", "--arg=start-seconds=8"]
            subprocess.run(add, env=stack.environment, check=True)
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def demo(data):
    """The demo as a process of its own, and what it says."""
    environment = os.environ | {"VBS_DATA_DIR": str(data), "DATABASE_URL": ""}
    process = subprocess.Popen([*COMMAND, "demo"], env=environment, text=True, stdout=-1, stderr=-2)
    yield process
    process.kill()
    process.communicate()


def nothing_runs(data):
    return not leftovers.find(data) and postgres.running(data) is None


def test_from_nothing_to_answers(demo, data):
    """A bar that never goes back, as lines where there is no terminal; then what was done, and where to look."""
    said = demo.communicate(timeout=300)[0]
    assert demo.returncode == 0, said
    assert not set(said) & {"\x1b", "\r"}
    shares = [int(share) for share in re.findall(r"^ *(\d+) %  ", said, re.MULTILINE)]
    assert shares == sorted(shares) and len({*shares}) > 5 and shares[-1] == 100, said
    assert "loading smollm2-135m" in said and said.index("stopping the server") < said.index("100 %  done")
    assert "Q  What is the capital of France?" in said
    assert re.search(r"/batches/batch_\w+/\n.*create_user NAME --role admin", said)
    assert len((data / "demo_output.jsonl").read_bytes().splitlines()) == 10
    assert nothing_runs(data)


@pytest.mark.parametrize(
    ("words", "number"),
    few(
        [
            ("loading", signal.SIGTERM),
            ("submitting", signal.SIGINT),
            ("starting PostgreSQL", signal.SIGINT),
            ("starting web", signal.SIGTERM),
            ("loading", signal.SIGINT),
        ],
    ),
)
def test_interrupted(demo, data, words, number):
    said = ""
    while words not in said:
        line = demo.stdout.readline()
        assert line, said
        said += line
    demo.send_signal(number)
    said += demo.communicate(timeout=60)[0]
    assert demo.returncode == 130, said
    assert "Traceback" not in said
    assert nothing_runs(data)
