"""The client of `manage.py batch`: every refusal is one exception, lists end, large files go in pieces."""

import httpx2
import pytest

from batches.cli.remote import Batches
from vbs.cli.remote import RemoteError

STEERING = "\x1b[31m\x9b2J\u202e\x7f"


# The client


def remote(answer, key="k", url="http://vbs.example/v1/"):
    return Batches(url, key, transport=httpx2.MockTransport(answer))


def error_body(message):
    return {"error": {"message": message, "type": "t", "param": None, "code": None}}


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (httpx2.Response(404, json=error_body("No such batch: 'x'.")), 404, "No such batch: 'x'."),
        (httpx2.Response(502, text="<h1>Bad gateway</h1>"), 502, "answered 502 Bad Gateway: <h1>Bad"),
        (httpx2.Response(500, json={"error": "odd"}), 500, "answered 500"),
        (httpx2.Response(302, headers={"location": "http://elsewhere"}), 302, "answered 302"),
        (httpx2.Response(200, text="<html>"), 200, "does not answer as a vbs server"),
        (httpx2.Response(200, json={"object": "list"}), 200, "does not answer as a vbs server"),
        (httpx2.Response(200, json=[]), 200, "does not answer as a vbs server"),
        (httpx2.ConnectError("refused"), None, "http://vbs.example gave no whole answer: refused"),
        (httpx2.ReadTimeout(""), None, "ReadTimeout"),
    ],
)
def test_every_refusal_is_one_exception(answer, status, message):
    def respond(request):
        if isinstance(answer, Exception):
            raise answer
        return answer

    with remote(respond) as server, pytest.raises(RemoteError) as raised:
        server.retrieve("x")
    assert raised.value.status == status
    assert message in str(raised.value)
    assert raised.value.passing == (status in (None, 500, 502))


def test_a_server_that_does_not_know_a_format_is_noticed():
    def respond(request):
        kind = "text/csv; charset=UTF-8" if request.url.params["join"] == "input" else "application/x-ndjson"
        return httpx2.Response(200, headers={"content-type": kind}, content=b"a,b")

    with remote(respond) as server:
        assert b"".join(server.results("x", "text/csv", format="csv", join="input")) == b"a,b"
        with pytest.raises(
            RemoteError, match="sent application/x-ndjson where text/csv was asked for, as a server of an"
        ):
            next(server.results("x", "text/csv", format="csv", join=""))


def test_what_is_asked():
    asked = []

    def respond(request):
        asked.append((request.method, str(request.url), request.headers["authorization"]))
        return httpx2.Response(200, json={"object": "batch", "id": "b"})

    with remote(respond, url="https://vbs.example/below") as server:
        server.retrieve("../v1/files?x")
        server.cancel("batch_1")
    assert asked == [
        ("GET", "https://vbs.example/below/v1/batches/..%2Fv1%2Ffiles%3Fx", "Bearer k"),
        ("POST", "https://vbs.example/below/v1/batches/batch_1/cancel", "Bearer k"),
    ]


def test_lists_are_followed_and_end():
    def respond(request):
        after = int(request.url.params.get("after", "0"))
        ids = [{"id": str(after + number + 1)} for number in range(int(request.url.params["limit"]))]
        return httpx2.Response(200, json={"object": "list", "data": ids, "last_id": ids[-1]["id"], "has_more": True})

    with remote(respond) as server:
        assert [one["id"] for one in server.batches(230)] == [str(number) for number in range(1, 231)]
    empty = {"object": "list", "data": [], "last_id": None, "has_more": True}
    with remote(lambda request: httpx2.Response(200, json=empty)) as server:
        assert list(server.batches(5)) == []


@pytest.mark.parametrize("url", ["vbs.example", "ftp://vbs.example", "http://", "http://h:99999", "file:///etc/passwd"])
def test_addresses_that_are_none(url):
    with pytest.raises(RemoteError, match="is no address of a server"):
        Batches(url)


def test_keys_that_are_none():
    with pytest.raises(RemoteError, match="no key has"):
        Batches("http://h", "sk-vbs-\n")


def test_a_large_file_goes_up_in_pieces(tmp_path):
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"x" * 30_000_000)
    sizes = []

    class Pieces(httpx2.BaseTransport):
        def handle_request(self, request):
            sizes.extend(len(piece) for piece in request.stream)
            return httpx2.Response(200, json={"object": "batch"})

    with Batches("http://vbs.example", transport=Pieces()) as server:
        server.submit(path, metadata={"a": "b"})
        assert sum(sizes) > 30_000_000
        assert max(sizes) < 100_000
        with pytest.raises(RemoteError, match="metadata key"):
            server.submit(path, metadata={'"': "b"})
