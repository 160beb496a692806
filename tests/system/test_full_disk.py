"""A disk is full for a while, with the files, the database and the logs on it: nothing is lost, all of it goes on."""

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import openai
import pytest

from tests.live import line, live

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MIB = 2**20


@pytest.fixture
def disk(monkeypatch):
    """A small disk of its own, on which everything temporary is."""
    folder = Path(tempfile.mkdtemp(prefix="vbs-disk-"))
    folder.chmod(0o711)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700m,mode=711", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip("Only root can mount a disk that is small enough to be filled.")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


@contextlib.contextmanager
def full(disk: Path):
    """No byte is free there, also when something gives one back."""
    over = threading.Event()

    def fill():
        with (disk / "ballast").open("wb", buffering=0) as ballast:
            while not over.is_set():
                for size in (MIB, 4096, 1):
                    with contextlib.suppress(OSError):
                        while ballast.write(b"\0" * size) == size and not over.is_set():
                            pass
                over.wait(0.05)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        end = time.monotonic() + 30
        while os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize > MIB:
            assert time.monotonic() < end
            time.sleep(0.05)
        yield
    finally:
        over.set()
        thread.join()
        (disk / "ballast").unlink()


def test_it_is_full_while_batches_are_taken_in_run_and_written(disk):
    with live(VBS_LEASE_SECONDS="5") as vbs:
        vbs.add_scripted("scripted", **{"max-num-seqs": 16, "latency-ms": 40})
        # One that runs, one that ends while there is no room for its files, and one that is to be read then.
        long = [f"long-{n}" for n in range(2500)]
        running = vbs.wait(vbs.create([line(one, one) for one in long]), until={"in_progress"}, done=50)
        ending = vbs.create([line(f"end-{n}", f"end {n}" * 2000) for n in range(300)], extra_body={"priority": 5})
        content = vbs.upload([line(f"read-{n}") for n in range(2000)])
        with full(disk):
            with pytest.raises(openai.APIError):
                vbs.upload([line(f"{n}", "x" * 1000) for n in range(4000)])
            reading = None
            with contextlib.suppress(openai.APIError):
                reading = vbs.client.batches.create(
                    input_file_id=content.id, endpoint="/v1/chat/completions", completion_window="24h"
                )
            time.sleep(6)
        for batch, ids in ((running, long), (ending, [f"end-{n}" for n in range(300)])):
            ended = vbs.wait(batch, seconds=240)
            assert ended.status == "completed", vbs.log(ended)
            _, bad = vbs.books(ended, ids)
            assert not bad, bad[0]
        if reading:
            assert vbs.wait(reading, seconds=240).status == "completed", vbs.log(reading)
        assert vbs.run([line("after")]).status == "completed"
