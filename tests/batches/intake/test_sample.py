"""How many requests a file has, by its beginning."""

import random

import pytest
from django.core.files.base import ContentFile

from batches.files import blobs
from batches.intake import sample
from batches.management.commands.batch import expected
from batches.models import File
from batches.queue import forecast
from tests.batches.api.test_expected import created
from tests.batches.queue.test_forecast import UNLIMITED
from tests.batches.waiting import (
    lines,
    model,
    one_at_a_time,  # noqa: F401
)
from tests.engines import CHAT


def test_a_small_file_is_counted_exactly(stored):
    content = lines(7)
    for one in (content, content[:-1], b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r\n\n")):
        assert sample.look(stored(one)) == sample.Sample("known", 7)


def test_answers_without_a_limit_are_counted(stored, project, worker):
    file = stored(lines(3) + lines(2, max_tokens=None))
    assert sample.look(file, endpoint=CHAT) == sample.Sample("known", 5, unlimited=2)
    model("known", 0.5, 10.0)
    new = forecast.of_new(created(project, file))
    assert (new.requests, new.seconds, new.completion_at, new.why) == (5, None, None, UNLIMITED)
    found = sample.look(stored((lines(1) + lines(1, max_tokens=None)) * 2000), endpoint=CHAT)
    assert (found.requests, found.unlimited) == (pytest.approx(4000, rel=0.1), pytest.approx(2000, rel=0.1))


def test_a_large_file_is_estimated(stored):
    chance = random.Random(3)
    content = b"".join(lines(1, text="x" * chance.randint(10, 500)) for _ in range(5000))
    found = sample.look(stored(content))
    assert found.model == "known" and found.requests == pytest.approx(5000, rel=0.1)


@pytest.mark.parametrize(
    "content",
    [b'{"a": 1}\n{', b"[1]\n", b'{"body": 3}\n', b'{"body": {"model": {"x": 1}}}\n', b'{"body": {}}\n', b"\n \n",
     b'{"body": {"model": "' + b"x" * 70_000 + b'"}}\n' * 2],
)  # fmt: skip
def test_what_cannot_be_read_has_a_reason(stored, content):
    found = sample.look(stored(content))
    assert found.why and not found.requests


def test_a_file_that_is_not_there_has_a_reason(stored):
    file = stored(lines(1))
    blobs.remove(file.blob)
    assert sample.look(file).why and sample.look(None).why
    assert sample.look(stored(b"x", "user_data")).why


def test_of_a_file_in_a_bucket_only_the_beginning_is_fetched(monkeypatch):
    import boto3  # type: ignore[import-untyped]
    from moto import mock_aws
    from storages.backends.s3 import S3Storage

    for name in ("aws_access_key_id", "aws_secret_access_key"):
        monkeypatch.setenv(name.upper(), "test")
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="vbs")
        storage = S3Storage(bucket_name="vbs", region_name="us-east-1")
        content = lines(3000)
        storage.save("aa/file", ContentFile(content))
        opened = []
        monkeypatch.setattr(blobs, "open_blob", lambda blob: opened.append(storage.open("aa/file", "rb")) or opened[-1])
        found = sample.look(File(id="file-aa", purpose="batch", bytes=len(content)))
        assert found.model == "known" and found.requests == pytest.approx(3000, rel=0.05)
        assert opened[0]._file is None, "nothing else was read"


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (None, ""),
        ({"reason": "It is not counted."}, "It is not counted."),
        (
            {"requests": 1500, "seconds": 45, "starts_in_seconds": 10, "measurements": 1},
            "about 1,500 requests, expected to take 45 s and to start in 10 s (1 measurement)",
        ),
        (
            {"requests": 2, "seconds": 45, "measurements": 3, "reason": "No GPU worker is running."},
            "about 2 requests, expected to take 45 s (3 measurements); No GPU worker is running.",
        ),
    ],
)
def test_the_command_says_it(estimate, words):
    blank = {"seconds": None, "starts_in_seconds": None, "requests": None, "model": None, "measurements": 0}
    assert expected({"estimate": estimate and blank | {"reason": None} | estimate}) == words
    assert expected({}) == "", "a server of an earlier version"


def test_the_default_model_is_for_lines_that_name_none(stored):
    content = b'{"custom_id": "a", "body": {"messages": []}}\n'
    assert sample.look(stored(content), "known").model == "known" and sample.look(stored(content)).why
