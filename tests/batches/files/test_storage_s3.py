"""The whole way of a batch with its files in a bucket, on a local S3 server (moto)."""

import hashlib
import io
import os
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.live import line, live
from vbs.run.stack import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The S3 server's URL, and a client of it."""
    import boto3  # type: ignore[import-untyped]

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(300):
                try:
                    urllib.request.urlopen(url, timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, log.read_text()
                    time.sleep(0.1)
            client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys())
            client.create_bucket(Bucket="vbs")
            yield url, client
        finally:
            server.kill()


def keys():
    return {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


@pytest.fixture(scope="module")
def vbs(bucket):
    environment = {name.upper(): value for name, value in keys().items()} | {"AWS_DEFAULT_REGION": "us-east-1"}
    environment |= {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    with live(VBS_STORAGE="s3://vbs/some/prefix", VBS_S3_ENDPOINT=bucket[0], **environment) as running:
        running.add_scripted()
        yield running


def names(bucket):
    found = bucket[1].list_objects_v2(Bucket="vbs").get("Contents", [])
    return {one["Key"] for one in found}


def test_a_batch_from_the_upload_to_its_output(vbs, bucket):
    batch = vbs.run([line(f"{n}", f"text {n}") for n in range(300)] + [line("bad", max_tokens=-1)])
    assert batch.status == "completed", vbs.log(batch)
    good, bad = vbs.books(batch, [*(f"{n}" for n in range(300)), "bad"])
    assert len(good) == 300 and bad[0]["custom_id"] == "bad"
    for file_id in (batch.input_file_id, batch.output_file_id, batch.error_file_id):
        assert f"some/prefix/{file_id[-2:]}/{file_id}" in names(bucket)
    assert not [path for path in (vbs.stack.data / "files").rglob("*") if path.is_file()], "nothing stays here"
    assert not list((vbs.stack.data / "tmp").glob("vbs-*")), "no copy is left behind"


def test_ranges_and_large_files(vbs):
    content = os.urandom(20 * 2**20)
    file = vbs.client.files.create(file=("a", io.BytesIO(content)), purpose="user_data")
    assert hashlib.sha256(vbs.client.files.content(file.id).content).digest() == hashlib.sha256(content).digest()
    part = vbs.http.get(f"/files/{file.id}/content", headers={"Range": "bytes=12345678-12345777"})
    assert (part.status_code, part.content) == (206, content[12345678:12345778])


def test_an_upload_in_parts(vbs, bucket):
    content = b'{"a": 1}\n' * 100_000
    done = vbs.client.uploads.upload_file_chunked(
        file=content, filename="a.jsonl", bytes=len(content), mime_type="x/y", purpose="batch", part_size=300_000
    )
    assert vbs.client.files.content(done.file.id).content == content


def test_it_is_ready_and_a_deleted_file_goes_from_the_bucket(vbs, bucket):
    assert vbs.http.get(f"{vbs.stack.url}/ready").json()["parts"]["storage"] == "ok"
    file = vbs.client.files.create(file=("a", io.BytesIO(b"x")), purpose="user_data")
    key = f"some/prefix/{file.id[-2:]}/{file.id}"
    assert key in names(bucket)
    vbs.client.files.delete(file.id)
    vbs.manage(
        "shell", "-c",
        "from batches.models import File; from vbs.upkeep import run; from datetime import timedelta; "
        "from django.db.models import F; File.objects.update(deleted_at=F('deleted_at') - timedelta(days=1)); run()",
    )  # fmt: skip
    assert key not in names(bucket)
