"""Clients that people have, as they install them: the official ones for Node and Python (strict), and LiteLLM."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from tests.live import CHAT, line

CLIENTS = Path(__file__).parent / "clients"
VERSIONS = list(json.loads((CLIENTS / "package.json").read_text())["dependencies"])


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A batch's file, and the answers to it. Some have what JSON may leave as it is and readers of lines trip over."""
    texts = {"a": "hello", "b": "two\nlines, three\u2028with this", "c": "é \U0001f600 " * 2000}
    path = tmp_path_factory.mktemp("clients") / "asked.jsonl"
    with path.open("w") as file:
        file.writelines(json.dumps(line(name, text)) + "\n" for name, text in texts.items())
    return path, [list(pair) for pair in texts.items()]


@pytest.fixture(scope="module")
def node(pytestconfig):
    """A folder with the packages; they are fetched once, and again when the lock file changes."""
    if shutil.which("npm") is None:
        reason = "There is no npm on this machine: install Node"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    folder = pytestconfig.cache.mkdir("node")
    lock = (CLIENTS / "package-lock.json").read_text()
    fetched = folder / "fetched.json"
    if not fetched.exists() or fetched.read_text() != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(CLIENTS / name, folder)
        fetch = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(fetch, cwd=folder, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        fetched.write_text(lock)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_node(vbs, node, asked, version):
    """Buffers, streams of a file (chunked from version 6 on) and parts; lists, deletion and errors."""
    path, answers = asked
    script = shutil.copy(CLIENTS / "openai.mjs", node)  # packages are looked for beside the script
    environment = os.environ | {"OPENAI_BASE_URL": vbs.url, "OPENAI_API_KEY": vbs.key}
    words = ["node", str(script), version, str(path)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert {way: sorted(found) for way, found in seen.items()} == dict.fromkeys(("buffer", "stream", "parts"), answers)


@pytest.mark.slow
def test_litellm(vbs, asked):
    path, answers = asked
    words = [sys.executable, str(CLIENTS / "litellm_sdk.py"), vbs.url, vbs.key, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert sorted(seen["answers"]) == answers and seen["metadata"] == {"by": "litellm"}
    assert seen["cancelled"] in ("cancelling", "cancelled")


# Strict: the client refuses an answer that is not of its own types.


@pytest.fixture(scope="module")
def strict(vbs):
    return openai.OpenAI(base_url=vbs.url, api_key=vbs.key, max_retries=0, timeout=60, _strict_response_validation=True)


def test_the_strict_client_sees_a_batch_through(vbs, strict, asked):
    path, answers = asked
    with path.open("rb") as content:
        file = strict.files.create(file=content, purpose="batch")
    assert strict.files.retrieve(file.id) == file
    batch = strict.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"by": "a strict client"}
    )
    assert vbs.wait(batch).status == "completed"
    batch = strict.batches.retrieve(batch.id)
    lines = [json.loads(one) for one in strict.files.content(batch.output_file_id).iter_lines()]
    said = [[one["custom_id"], one["response"]["body"]["choices"][0]["message"]["content"]] for one in lines]
    assert sorted(said) == answers
    assert batch.id in [one.id for one in strict.batches.list(limit=2)]
    assert file.id in [one.id for one in strict.files.list(purpose="batch", limit=2)]
    assert strict.files.delete(file.id).deleted


def test_the_strict_client_sees_batches_that_end_otherwise(vbs, strict):
    bad = strict.files.create(file=("bad.jsonl", io.BytesIO(b'{"custom_id": "a"}\n')), purpose="batch")
    failed = vbs.wait(strict.batches.create(input_file_id=bad.id, endpoint=CHAT, completion_window="24h"))
    assert strict.batches.retrieve(failed.id).errors.data[0].line == 1
    slow = vbs.create([line(f"{n}", model="slow") for n in range(500)])
    assert strict.batches.cancel(slow.id).status in ("cancelling", "cancelled")
    assert vbs.wait(slow, until={"cancelled"}).status == strict.batches.retrieve(slow.id).status == "cancelled"
    assert {"failed", "cancelled"} <= {one.status for one in strict.batches.list(limit=20)}


def test_the_strict_client_uploads_in_parts(strict):
    content = json.dumps(line("a")).encode() + b"\n"
    upload = strict.uploads.create(
        bytes=len(content), filename="a.jsonl", mime_type="application/jsonl", purpose="batch"
    )
    part = strict.uploads.parts.create(upload.id, data=io.BytesIO(content))
    done = strict.uploads.complete(upload.id, part_ids=[part.id])
    assert done.status == "completed" and strict.files.content(done.file.id).content == content
    spare = strict.uploads.create(bytes=5, filename="b", mime_type="text/plain", purpose="user_data")
    assert strict.uploads.cancel(spare.id).status == "cancelled"


def test_the_strict_client_sees_models_and_errors(strict):
    names = [one.id for one in strict.models.list()]
    assert strict.models.retrieve(names[0]).id == names[0]
    with pytest.raises(openai.NotFoundError):
        strict.batches.retrieve("batch_none")
    with pytest.raises(openai.BadRequestError):
        strict.batches.create(input_file_id="file-none", endpoint=CHAT, completion_window="never")
