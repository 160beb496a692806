"""Lines of a user's file as requests to tune a model with: those for the model, spread, and of no other project."""

import json
from pathlib import Path

import pytest

from batches.files import blobs, store
from batches.intake import sampled
from batches.models import File
from models_registry.catalog.folders import ModelError
from models_registry.gpu import operations
from models_registry.models import Alias, Model, Operation
from tests.engines import line
from vbs.accounts.models import Project


@pytest.fixture
def kept(project):
    """Keeps lines as an input file of the project."""

    def keep(lines, purpose="batch", of=project):
        with blobs.scratch() as scratch:
            scratch.write(
                b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)
            )
            scratch.flush()
            return store.store(of, Path(scratch.name), "in.jsonl", purpose, None)

    return keep


def sample(file, model, count=10, seed=0, check=lambda: None):
    found = sampled.requests(file.pk, model, count, seed, check)
    assert {path for path, _ in found} == {"/chat/completions"}
    return [json.loads(body) for _, body in found]


def texts(bodies):
    return [body["messages"][0]["content"] for body in bodies]


def test_the_lines_for_the_model_are_taken(add_model, kept, settings):
    settings.VBS_DEFAULT_MAX_TOKENS = 7
    model, other = add_model(), add_model("other")
    Alias.objects.create(name="a", model=model)
    vector = {"custom_id": "v", "method": "POST", "url": "/v1/embeddings", "body": {"model": "scripted", "input": "x"}}
    lines = [
        line("1", model="scripted", text="own", seed=12345678901234567890),
        line("2", model="a", text="alias"),
        line("3", model="other", text="of another"),
        line("4", model=None, text="of any", max_tokens=3),
        *(b"", b"{", b"[]", b'{"url": "/v1/chat/completions", "body": 5}'),
        {"custom_id": "5", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "scripted"}},
        vector,
    ]
    file = kept(lines)
    found = sample(file, model)
    assert texts(found) == ["own", "alias", "of any"] and {body["model"] for body in found} == {"scripted"}
    assert found[0]["seed"] == 12345678901234567890 and [body["max_tokens"] for body in found] == [7, 7, 3]
    assert texts(sample(file, other)) == ["of another", "of any"]
    with pytest.raises(ModelError, match=r"no line of file-\w+ is for nobody"):
        sample(file, Model.objects.create(name="nobody", kind="scripted", task="score"))


def test_they_are_spread_over_the_file_by_the_seed(add_model, kept):
    model, file = add_model(), kept([line(str(n), text=str(n)) for n in range(100)])
    numbers = [int(text) for text in texts(sample(file, model))]
    assert [number // 10 for number in numbers] == list(range(10)), "one of each tenth"
    assert numbers == [int(text) for text in texts(sample(file, model))]
    assert numbers != [int(text) for text in texts(sample(file, model, seed=1))]
    assert len(sample(file, model, count=1000)) == 100


def test_a_long_file_can_be_left(add_model, kept):
    file = kept([line(str(n)) for n in range(2 * sampled.LOOK)])

    def check():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sample(file, add_model(), check=check)


def test_a_file_is_of_its_project(add_model, kept, project):
    model, other = add_model(), Project.objects.create(name="other")
    mine, hers, tuning = kept([line("1")]), kept([line("1")], of=other), kept([line("1")], purpose="user_data")
    for file, projects, there in (
        (mine, [project.pk], True), (hers, [project.pk], False), (hers, [project.pk, other.pk], True),
        (hers, None, True), (hers, (), False), (tuning, [project.pk], False),
    ):  # fmt: skip
        assert sampled.has_file(file.pk, projects) is there
        if there:
            assert operations.ask("tune", model, {"file": file.pk}, projects=projects).options["file"] == file.pk
        else:
            with pytest.raises(ModelError, match="there is no file"):
                operations.ask("tune", model, {"file": file.pk}, projects=projects)


def test_a_tuning_sends_them(add_model, kept, gpu, home, project):
    model = add_model(journal=f"{home}/journal", **{"max-num-seqs": 1, "latency-ms": 20})
    file = kept([line(str(n), text=f"line {n}", max_tokens=5) for n in range(50)])
    operation = operations.ask("tune", model, {"file": file.pk, "requests": 10}, projects=[project.pk])
    gpu.serve()
    done = Operation.objects.get(pk=operation.pk)
    assert done.state == "succeeded" and done.result["sample"] == f"10 requests of {file.pk}"
    assert all(one["requests"] == 10 for one in done.result["candidates"] if not one["error"])
    sent = {json.loads(one)["text"] for one in (home / "journal").read_text().splitlines()}
    assert len(sent) == 10 and all(text.startswith("line ") for text in sent)


def test_a_file_that_is_gone_fails_the_tuning_with_what_to_do(add_model, kept, gpu, project):
    file = kept([line("1")])
    operation = operations.ask("tune", add_model(), {"file": file.pk}, projects=[project.pk])
    assert File.objects.get().delete_softly()
    gpu.serve()
    done = Operation.objects.get(pk=operation.pk)
    assert done.state == "failed" and "not there any more" in done.error and gpu.resident.engine is None
