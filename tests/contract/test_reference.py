"""The reference of the API is whole and true: each operation has words and an example, and each command of /docs is run
as it stands there, in that order. What comes back has the form of the example, and of the schema."""

import csv
import html
import json
import re
import subprocess
import time
from contextlib import contextmanager

import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.adapters import adapter_folder
from tests.contract.described import METHODS, resolved, strict
from tests.live import line
from tests.models_registry.hubs import CONFIG, repository
from vbs.help import reference
from vbs.openai import errors
from vbs.settings import BASE_DIR

SUMMARY = re.compile(r"[A-Z][a-z]+( [\w'/-]+)*")
IDS = re.compile(r"(?:file-|batch_|upload_|part_|op_)[0-9a-f]{32}")
VECTORS = "all-minilm-l6-v2"
# What is asked of keys in vain: an access token is kept by a command on the server alone.
REFUSED = {"PUT /v1/registry/tokens/{name}": "403", "DELETE /v1/registry/tokens/{name}": "403"}
LAYERS = {
    "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100,
}  # fmt: skip


def operations(document):
    for path, methods in document["paths"].items():
        for method in METHODS:
            if method in methods:
                yield f"{method.upper()} {path}", methods[method]


def test_each_operation_has_words_and_examples(document):
    tags = {tag["name"] for tag in document["tags"]}
    for route, one in operations(document):
        assert SUMMARY.fullmatch(one["summary"]) and len(one["summary"]) < 50, route
        assert one["description"].endswith(".") and set(one["tags"]) <= tags and len(one["tags"]) == 1, route
        for parameter in one.get("parameters", []):
            assert parameter["description"], (route, parameter["name"])
            assert "example" in parameter or parameter["in"] != "path", (route, parameter["name"])
        bodies = one.get("requestBody", {}).get("content", {})
        assert all("example" in body for kind, body in bodies.items() if "urlencoded" not in kind), route
        good = [body for status, answer in one["responses"].items() if status < "300"
                for body in answer["content"].values()]  # fmt: skip
        assert any("example" in body for body in good), route
        for status, answer in one["responses"].items():
            if status >= "400" and route != "GET /ready":
                assert answer["content"]["application/json"]["example"]["error"]["message"], (route, status)


def test_the_groups_are_in_an_order_for_newcomers(document):
    shown = reference.of(document, "http://x")
    assert [group.name for group in shown.groups][:5] == ["Models", "Files", "Uploads", "Batches", "Direct requests"]
    assert all(group.operations for group in shown.groups)


def test_examples_of_answers_are_as_described(document):
    for route, one in operations(document):
        for status, answer in one["responses"].items():
            body = answer["content"].get("application/json", {})
            if "example" in body:
                try:
                    jsonschema.validate(body["example"], strict(resolved(body["schema"], document)))
                except jsonschema.ValidationError as error:
                    pytest.fail(f"{route} {status}: {error}")


def differences(told, found, schema, path=""):
    """Where an answer has another form than the example: keys that only one of them has, and lists with nothing in
    them. Objects whose keys the schema leaves open are as they are."""
    if isinstance(told, dict) and isinstance(found, dict):
        if path and not schema.get("properties"):
            return
        if told.keys() != found.keys():
            yield f"{path or 'the answer'}: {sorted(told.keys() ^ found.keys())}"
        for name in told.keys() & found.keys():
            yield from differences(told[name], found[name], of(schema, name), f"{path}.{name}")
    elif isinstance(told, list) and isinstance(found, list) and told and isinstance(told[0], dict):
        if found:
            yield from differences(told[0], found[0], of(schema, None), f"{path}[]")
        else:
            yield f"{path} is empty"
    elif None not in (told, found) and isinstance(told, dict | list) != isinstance(found, dict | list):
        yield f"{path}: {told!r} and {found!r}"


def of(schema, name):
    """The schema of a field, or of the elements of a list."""
    for one in (schema, *schema.get("anyOf", [])):
        if name is None and "items" in one:
            return plain(one["items"])
        if name in one.get("properties", {}):
            return plain(one["properties"][name])
    return OPEN if schema is OPEN else {}


def plain(schema):
    """Without the null that it may be."""
    return next((one for one in schema.get("anyOf", []) if one.get("type") != "null"), schema)


class _Open(dict):
    """Of an answer that is an engine's: it has the keys of the example."""

    def get(self, key, default=None):
        return OPEN if key == "properties" else default


OPEN = _Open(x=1)


class Story:
    """The ids of the examples, and what they stand for here."""

    def __init__(self, vbs, key, document):
        self.vbs, self.key, self.document = vbs, key, document
        self.meant = {}

    def run(self, command):
        """Status, content type and text of what a command of the page brings."""
        for told, found in self.meant.items():
            command = command.replace(told, found)
        done = subprocess.run(
            ["bash", "-c", command + " -w '\\n%{http_code} %{content_type}'"],
            cwd=BASE_DIR, env={"KEY": self.key, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        text, _, last = done.stdout.rpartition("\n")
        status, _, kind = last.partition(" ")
        return status, kind.partition(";")[0], text

    def learn(self, told, found):
        """What the ids of an example stand for from now on."""
        if isinstance(told, dict) and isinstance(found, dict):
            for name in told.keys() & found.keys():
                self.learn(told[name], found[name])
        elif isinstance(told, str) and isinstance(found, str) and IDS.fullmatch(told) and IDS.fullmatch(found):
            self.meant.setdefault(told, found)

    def check(self, route, command):
        """What is not as the page says."""
        status, kind, text = self.run(command)
        operation = dict(operations(self.document))[route]
        if route in REFUSED:
            return [] if status == REFUSED[route] else [f"{route}: {status} {text}"]
        answer = operation["responses"].get(status)
        if status >= "300" or answer is None or kind not in answer["content"]:
            return [f"{route}: {status} {kind} {text[:300]}"]
        body = answer["content"][kind]
        if "example" not in body:
            return [f"{route}: no example of {status} {kind}"]
        told = body["example"]
        if kind == "application/json":
            found, schema = json.loads(text), resolved(body["schema"], self.document)
            jsonschema.validate(found, strict(schema))
            self.learn(told, found)
            return [f"{route}: {one}" for one in differences(told, found, schema if "properties" in schema else OPEN)]
        if kind == "application/x-ndjson":
            pair = json.loads(told), json.loads(text.splitlines()[0])
            return [f"{route}: {one}" for one in differences(*pair, OPEN)]
        if kind == "text/csv":
            heads = [next(csv.reader([one.removeprefix("\ufeff").splitlines()[0]])) for one in (told, text)]
            return [] if heads[0] == heads[1] else [f"{route}: {heads}"]
        first = [re.sub(r"\d", "0", one.splitlines()[0]) for one in (told, text)]
        return [] if first[0] == first[1] else [f"{route}: {first}"]


@pytest.fixture
def world(vbs, operator, hub, smollm2, tmp_path_factory):
    """What the examples name: models, a repository of the hub, folders."""
    hub.rate = 200_000  # bytes a second: a download takes long enough to be paused
    repository(hub, "Qwen/Qwen2.5-0.5B-Instruct", 2_000_000, **{"config.json": json.dumps(CONFIG | LAYERS).encode()})
    vbs.manage("model", "add", VECTORS, "scripted:", "--task", "embedding")
    adapter = adapter_folder(vbs.stack.data / "models" / "support-lora")
    vbs.manage("model", "add", "support-lora", str(adapter), "--base", smollm2)
    given = {"model": smollm2}
    assert vbs.http.put("/registry/aliases/gpt-4o-mini", json=given, headers=operator).status_code == 200
    folder = vbs.stack.data / "models" / "by-hand"
    folder.mkdir()
    content = repository(hub, "org/by-hand", 100_000, **{"config.json": json.dumps(CONFIG | LAYERS).encode()})
    for name, data in content.items():
        (folder / name).write_bytes(data)
    left = vbs.stack.data / "cache" / "demo" / "minilm"
    left.mkdir(parents=True)
    (left / "a").write_bytes(b"x")
    yield folder
    hub.rate = 0


FAILED = """
from models_registry.models import Download, Model
Download.objects.filter(model__name="qwen2.5-0.5b").update(state="failed")
Model.objects.filter(name="qwen2.5-0.5b").update(state="failed")
"""
TUNED = """
from models_registry.models import Model, Operation
tuning = {"own": {"counters": True}, "options": {}, "candidates": [], "trying": None, "best": {"max-num-seqs": 64},
    "gain": 1.2, "kept": False, "sample": "", "input_tokens": 1, "ended": ""}
model = Model.objects.get(name="smollm2-135m")
tuning["own"] = model.engine_args
print(Operation.objects.create(model=model, kind="tune", state="succeeded", result=tuning).pk)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_command_does_what_it_says(vbs, operator, document, smollm2, world):
    key = operator["Authorization"].split()[1]
    story, http = Story(vbs, key, document), vbs.http
    shown = reference.of(document, vbs.stack.url)
    page = http.get(f"{vbs.stack.url}/docs", headers={"Accept": "text/html"}).text
    story.meant["/srv/models/qwen2.5-0.5b"] = str(world)

    def ended(operation_id):
        end = time.monotonic() + 60
        while (found := http.get(f"/registry/operations/{operation_id}", headers=operator).json())[
            "finished_at"
        ] is None:
            assert time.monotonic() < end, found
            time.sleep(0.1)
        return found

    def ask(kind, name, **given):
        return http.post(f"/registry/models/{name}/{kind}", headers=operator, json=given).json()["id"]

    @contextmanager
    def meaning(example="", found=""):
        """The id of an example stands for another object for a while."""
        before = dict(story.meant)
        if example:
            story.meant[example] = found
        yield
        story.meant |= before

    def told(path):
        """The id that the example of this path has in it."""
        (one,) = [one for one in next(iter(document["paths"][path].values()))["parameters"] if one["in"] == "path"]
        return one["example"]

    batch_id, upload_id = told("/v1/batches/{batch_id}"), told("/v1/uploads/{upload_id}/parts")
    operation_id = told("/v1/registry/operations/{operation_id}")
    tuning_id = told("/v1/registry/operations/{operation_id}/keep")

    def another_upload():
        made = http.post("/uploads", json={"bytes": 2, "filename": "a", "mime_type": "x/y", "purpose": "batch"})
        return meaning(upload_id, made.json()["id"])

    def running():
        batch = vbs.create([line(str(n), "word " * 5, "slow") for n in range(2000)])
        vbs.wait(batch, until={"in_progress"})
        going.append(batch)
        return meaning(batch_id, batch.id)

    def failed():
        batch = vbs.run([line("good", model=smollm2), line("bad", model=smollm2, max_tokens=-1)])
        return meaning(batch_id, batch.id)

    def completed():
        vbs.wait(vbs.retrieve(story.meant[batch_id]))
        return meaning()

    def loaded(name):
        assert ended(ask("load", name))["state"] == "succeeded"
        return meaning()

    def waiting():
        with running():
            return meaning(operation_id, ask("test", smollm2, priority=-100))

    def tuned():
        return meaning(tuning_id, vbs.manage("shell", "-v0", "-c", TUNED).split()[-1])

    def failed_download():
        vbs.manage("shell", "-v0", "-c", FAILED)
        return meaning()

    going = []
    first = {
        "POST /v1/uploads/{upload_id}/cancel": another_upload,
        "GET /v1/batches": completed,
        "POST /v1/batches/{batch_id}": running,
        "POST /v1/batches/{batch_id}/cancel": running,
        "POST /v1/batches/{batch_id}/retry": failed,
        "GET /v1/batches/{batch_id}/errors": failed,
        "POST /v1/registry/models/{name}/retry": failed_download,
        "POST /v1/chat/completions": lambda: loaded(smollm2),
        "POST /v1/embeddings": lambda: loaded(VECTORS),
        "GET /v1/queue": running,
        "POST /v1/registry/operations/{operation_id}/cancel": waiting,
        "POST /v1/registry/operations/{operation_id}/keep": tuned,
        "GET /v1/registry/models/{name}/measurements": lambda: loaded(smollm2),
    }
    commands = [(f"{one.method} {one.path}", command.code) for group in shown.groups for one in group.operations
                for command in one.commands]  # fmt: skip
    results = "GET /v1/batches/{batch_id}/results"
    wrong = []
    for route, command in sorted(commands, key=lambda one: one[0].startswith("DELETE")):  # which come last
        assert html.escape(command) in page, command
        with first.get(route, meaning)():
            wrong += story.check(route, command)
            if route == results:  # without parameters it has the output lines
                wrong += story.check(route, re.sub(r"\?[^']*", "", command))
        while going:
            vbs.wait(vbs.client.batches.cancel(going.pop().id))
        if route.endswith("/tune"):  # which would take minutes
            http.post(f"/registry/operations/{story.meant[tuning_id]}/cancel", headers=operator)
    http.post("/registry/models/qwen2.5-0.5b/cancel", headers=operator)
    assert not wrong, "\n".join(wrong)


def test_errors_are_told_as_they_come(vbs, document, smollm2, operator):
    """Those that a client can bring about, word for word; of the others the type."""
    told = {name.removeprefix("Error"): dict(one["content"]["application/json"]["example"]["error"])
            for name, one in document["components"]["responses"].items()}  # fmt: skip
    http = vbs.http
    file = vbs.client.files.create(file=("a.jsonl", b"{}\n" * 743 + b"\n"), purpose="batch")  # of 2,230 bytes
    asked = http.post(f"/registry/models/{smollm2}/test", headers=operator, json={}).json()["id"]
    end = time.monotonic() + 60
    while http.get(f"/registry/operations/{asked}").json()["state"] != "succeeded":
        assert time.monotonic() < end
        time.sleep(0.1)
    answers = [
        http.get("/batches?limit=0"),
        http.get("/batches", headers={"Authorization": "Bearer sk-vbs-wrong"}),
        http.post("/registry/models", json={}),
        http.get("/batches/batch_none"),
        http.delete("/batches"),
        http.post(f"/registry/operations/{asked}/cancel", headers=operator),
        http.post("/uploads", json={"filename": "x" * 2_700_000}),
        http.post("/uploads", content=b"{}", headers={"Content-Type": "text/plain"}),
        http.get(f"/files/{file.id}/content", headers={"Range": "bytes=9000-"}),
    ]
    for status, answer in zip(("400", "401", "403", "404", "405", "409", "413", "415", "416"), answers, strict=True):
        expected = told.pop(status)
        expected["message"] = IDS.sub(asked, expected["message"])
        assert (str(answer.status_code), answer.json()["error"]) == (status, expected)
    for status, one in told.items():
        kind = errors.TYPES.get(int(status), "server_error" if status >= "500" else "invalid_request_error")
        assert one["type"] == kind and set(one) == {"message", "type", "param", "code"}, status
