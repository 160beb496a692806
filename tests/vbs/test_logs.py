"""Log lines as they are written: their shape, their context, and what cannot get into them."""

import asyncio
import gzip
import io
import json
import logging
import logging.config
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync
from django.http import Http404, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from hypothesis import given
from hypothesis import strategies as st

from vbs import logs

ROOT = Path(__file__).resolve().parents[2]
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


class Written:
    """A logger of its own with a handler as `config` makes it, and what it wrote."""

    def __init__(self, format: str) -> None:
        settings = logs.config(format, "DEBUG")
        self.stream = io.StringIO()
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(settings["formatters"][format]["()"]())
        handler.addFilter(settings["filters"]["context"]["()"]())
        self.logger = logging.Logger("vbs.test")
        self.logger.addHandler(handler)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def objects(self) -> list[dict]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def human():
    return Written("human")


@pytest.fixture
def as_json():
    return Written("json")


def test_a_line_for_people(human):
    with logs.bind(batch_id="batch_1", worker="gpu-0"):
        human.logger.warning("%d requests left", 7)
    assert re.fullmatch(rf"{TIME} WARNING vbs\.test: 7 requests left batch_id=batch_1 worker=gpu-0\n", human.text)


def test_a_line_in_json(as_json):
    with logs.bind(request_id="req_1", batch_id="batch_1", worker="gpu-0"):
        as_json.logger.info("%d left", 7, extra={"status": 200})
    (line,) = as_json.objects
    assert re.fullmatch(TIME, line.pop("timestamp"))
    context = {"request_id": "req_1", "batch_id": "batch_1", "worker": "gpu-0"}
    assert line == {"level": "INFO", "logger": "vbs.test", "message": "7 left", "status": 200, **context}


def test_extra_fields_do_not_take_the_place_of_ours(as_json):
    with logs.bind(request_id="req_1"):
        as_json.logger.info("x", extra={"level": "no", "logger": "no", "timestamp": "no", "request_id": "no"})
    assert as_json.objects[0]["level"] == "INFO"
    assert as_json.objects[0]["logger"] == "vbs.test"
    assert as_json.objects[0]["request_id"] == "req_1"
    assert re.fullmatch(TIME, as_json.objects[0]["timestamp"])


def test_an_exception(human, as_json):
    for written in (human, as_json):
        try:
            raise ValueError("first\n2026-11-21T00:00:00.000Z INFO forged\x1b[2J Bearer abc.def")
        except ValueError:
            written.logger.exception("failed")
    first, *details = human.text.splitlines()
    assert first.endswith("vbs.test: failed")
    assert all(line.startswith("  | ") for line in details)
    assert "\x1b" not in human.text
    assert "Traceback" in as_json.objects[0]["exc_info"]
    assert "ValueError: first" in as_json.objects[0]["exc_info"]
    assert "abc.def" not in human.text + as_json.text


@pytest.mark.parametrize(
    "bad", ["\n", "\r", "\r\n", "\x1b[31m", "\x00", "\x7f", "\x9b2J", "\u2028", "\u202e", "\ud800"]
)
def test_a_name_that_users_chose_cannot_forge_a_line(human, as_json, bad):
    name = f"a{bad}2026-11-21T00:00:00.000Z INFO vbs: paid.jsonl"
    for written in (human, as_json):
        with logs.bind(file=name):
            written.logger.info("file %s", name)
        assert len(written.text.splitlines()) == 1
        assert bad not in written.text.removesuffix("\n")
    assert as_json.objects[0]["message"] == f"file {name}"
    assert "a\\" in human.text


@given(st.text())
def test_any_text_is_one_printable_line(text):
    line = logs.one_line(text)
    assert len(line.splitlines()) <= 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)
    line.encode()


@pytest.mark.parametrize(
    "secret",
    [
        "sk-vbs-AbC_12-3xyz",
        "Authorization: Bearer sk-vbs-AbC_12-3xyz",
        "bearer eyJ0.eyJ-_.c2ln=",
        "?key=sk-vbs-AbC_12-3xyz&x=1",
        "BEARER  abc+/~def",
        "xsk-vbs-AbC",
        "Bearer%20abcdef",
    ],
)
def test_keys_are_masked_everywhere(human, as_json, secret):
    for written in (human, as_json):
        with logs.bind(note=secret):
            written.logger.error("got %s", secret, extra={"header": secret})
        assert "***" in written.text
        assert not re.search(r"AbC|eyJ|abc", written.text)


def test_what_is_no_secret_stays():
    text = "task-vbs, the bearer, sk-other"
    assert logs.mask(text) == "task-vbs, the bearer, sk-other"


def test_context_nests_and_ends(human):
    with logs.bind(worker="a", batch_id="1"):
        with logs.bind(batch_id="2", worker=None):
            assert logs.bound() == {"batch_id": "2"}
        assert logs.bound() == {"worker": "a", "batch_id": "1"}
        with pytest.raises(ValueError), logs.bind(batch_id="3"):
            raise ValueError
        assert logs.bound()["batch_id"] == "1"
    assert logs.bound() == {}
    human.logger.info("outside")
    assert human.text.endswith("vbs.test: outside\n")


def test_tasks_and_threads_have_contexts_of_their_own():
    async def task(number: int) -> str:
        with logs.bind(batch_id=number):
            await asyncio.sleep(0.01)
            return logs.bound()["batch_id"]

    async def tasks() -> list[str]:
        return await asyncio.gather(*map(task, range(20)))

    assert asyncio.run(tasks()) == [str(number) for number in range(20)]
    seen: list = []
    with logs.bind(worker="a"):
        thread = threading.Thread(target=lambda: seen.append(dict(logs.bound())))
        thread.start()
        thread.join()
    assert seen == [{}]


# Requests


def view(request):
    return HttpResponse(f"{request.request_id} {logs.bound()['request_id']}")


async def async_view(request):
    await asyncio.sleep(0)
    return view(request)


def missing(request):
    raise Http404


def failing(request):
    raise RuntimeError("by request")


urlpatterns = [path("sync", view), path("async", async_view), path("missing", missing), path("failing", failing)]


def get(kind, address, **headers):
    if kind is Client:
        return Client(raise_request_exception=False).get(address, headers=headers)
    return async_to_sync(AsyncClient(raise_request_exception=False).get)(address, headers=headers)


@pytest.fixture(params=[Client, AsyncClient])
def kind(request):
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=["vbs.logs.RequestIdMiddleware"]):
        yield request.param


@pytest.mark.parametrize("address", ["/sync", "/async"])
def test_a_request_keeps_its_id(kind, address):
    response = get(kind, address, **{"X-Request-ID": "Abc-1._" + "x" * 121})
    assert response["X-Request-ID"] == "Abc-1._" + "x" * 121
    assert response.content.decode().split() == [response["X-Request-ID"]] * 2
    assert logs.bound() == {}


@pytest.mark.parametrize("unfit", ["", "x" * 129, "a b", "a\nb", "ä", "a;b"])
def test_an_unfit_id_is_replaced(kind, unfit):
    response = get(kind, "/sync", **{"X-Request-ID": unfit})
    assert re.fullmatch(r"req_[0-9a-f]{24}", response["X-Request-ID"])
    assert response.content.decode().split() == [response["X-Request-ID"]] * 2


@pytest.mark.parametrize(("address", "status"), [("/missing", 404), ("/nowhere", 404), ("/failing", 500)])
def test_every_answer_has_an_id(kind, address, status):
    response = get(kind, address)
    assert response.status_code == status
    assert re.fullmatch(r"req_[0-9a-f]{24}", response["X-Request-ID"])
    assert get(kind, address)["X-Request-ID"] != response["X-Request-ID"]


# Configuration


def run(code: str, *arguments: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.stdout == ""
    return result.stderr.splitlines()


CONFIGURED = """
import logging, sys
from django.conf import settings
from vbs import logs
settings.configure(LOGGING=logs.config(*sys.argv[1:]))
import django
django.setup()
for name in ("vbs.x", "django-q", "django.request", "django.server", "daphne.server"):
    for level in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger(name), level)("said")
"""


def test_who_says_what_at_info():
    lines = [json.loads(line) for line in run(CONFIGURED, "json", "INFO")]
    said = [(line["logger"], line["level"]) for line in lines]
    assert said == [
        ("vbs.x", "INFO"),
        ("vbs.x", "WARNING"),
        ("vbs.x", "ERROR"),
        ("django-q", "WARNING"),
        ("django-q", "ERROR"),
        ("django.request", "ERROR"),
        ("django.server", "INFO"),
        ("django.server", "WARNING"),
        ("django.server", "ERROR"),
        ("daphne.server", "WARNING"),
        ("daphne.server", "ERROR"),
    ]


def test_who_says_what_at_error():
    lines = run(CONFIGURED, "human", "ERROR")
    assert [line.split()[1:3] for line in lines] == [
        ["ERROR", f"{name}:"] for name in ("vbs.x", "django-q", "django.request", "django.server", "daphne.server")
    ]


# Sentry

REPORTING = """
import logging, sys
from vbs import logs
logs.init_sentry(sys.argv[1])
secret = "in-a-" + "variable"
with logs.bind(batch_id="batch_1"):
    logging.getLogger("vbs").info("before, with sk-vbs-in-the-past")
    try:
        raise RuntimeError("key sk-vbs-in-the-error")
    except RuntimeError:
        logging.getLogger("vbs").exception("failed for %s", "Bearer in-an-argument")
import sentry_sdk
sentry_sdk.flush(10)
"""


def test_sentry_hears_of_errors_and_of_no_secrets():
    received: list[bytes] = []

    class Sentry(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Sentry)
    threading.Thread(target=server.serve_forever).start()
    try:
        run(REPORTING, f"http://public@127.0.0.1:{server.server_port}/1")
    finally:
        server.shutdown()
        server.server_close()
    event = next(event for line in b"\n".join(received).splitlines() if "exception" in (event := json.loads(line)))
    assert event["exception"]["values"][0]["value"] == "key sk-vbs-***"
    assert event["tags"]["batch_id"] == "batch_1"
    assert not re.search(rb"in-the-past|in-the-error|in-an-argument|in-a-variable", b"".join(received))


def test_sentry_gets_no_more_of_a_request_than_its_address():
    request = {"method": "POST", "url": "http://x/v1/files?key=1", "query_string": "key=1", "headers": {"A": "b"}}
    event = logs.scrub({"request": request, "extra": {"list": ["sk-vbs-a"]}}, {})
    assert event["request"] == {"method": "POST", "url": "http://x/v1/files"}
    assert event["extra"] == {"list": ["sk-vbs-***"]}


def test_a_wrong_dsn_says_which_setting():
    with pytest.raises(ValueError, match="SENTRY_DSN"):
        logs.init_sentry("nonsense")
    logs.init_sentry("")
