"""The real vLLM: a swap between two architectures, embeddings, and kill -9 of worker and engine in the middle.

The machine decides the speed: minutes, most of them the engine's starts.
"""

import json
import os
import signal
import time

import openai
import psutil
import pytest

from models_registry.engine.spec import Address
from models_registry.engine.watch import figures
from tests.adapters import adapter_folder
from tests.amount import few
from tests.engines import until
from tests.live import CHAT, line, live

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
SMOL, GEMMA, MINILM = "smollm2-135m", "gemma3-270m", "all-minilm-l6-v2"


@pytest.fixture(scope="module")
def vbs():
    # The converted models are kept between runs where a folder for them is given.
    kept = os.environ.get("VBS_TEST_MODELS")
    with live() as running:
        if kept:
            (running.stack.data / "models").symlink_to(kept)
        running.manage("model", "add-demo", "smollm2")
        yield running


GONE = "Removed LoRA adapter: name '@adapter-"  # in the engine's log
FRANCE = "What is the capital of France?"


def ask(custom_id, text=FRANCE, **body):
    return line(custom_id, text, model=SMOL, **{"max_tokens": 16, "temperature": 0} | body)


def completion(custom_id):
    body = {"model": GEMMA, "prompt": "1, 2, 3, 4, 5, 6,", "max_tokens": 8, "temperature": 0}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}


def embedding(custom_id, text):
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": {"model": MINILM, "input": text}}


@pytest.mark.many
def test_three_models_take_turns(vbs):
    """Nine batches, the three models by turns: each model is loaded once, which is two swaps. In order it would be
    eight."""
    vbs.manage("model", "add-demo", "gemma", "minilm")
    ids = [f"r{n}" for n in range(10)]
    texts = ["a cat", "a small kitten", "engine repair"]
    queues = {
        SMOL: (CHAT, [ask(one) for one in ids]),
        GEMMA: ("/v1/completions", [completion(one) for one in ids]),
        MINILM: ("/v1/embeddings", [embedding(one, text) for one, text in zip(ids, texts, strict=False)]),
    }
    made = [
        (model, vbs.create(lines, endpoint=endpoint), [one["custom_id"] for one in lines])
        for _ in range(3)
        for model, (endpoint, lines) in queues.items()
    ]
    for model, batch, asked in made:
        good, bad = vbs.books(vbs.wait(batch, seconds=900), asked)
        assert not bad and all(one["response"]["body"]["model"] == model for one in good)
        bodies = {one["custom_id"]: one["response"]["body"] for one in good}
        if model == SMOL:
            assert all("Paris" in body["choices"][0]["message"]["content"] for body in bodies.values())
        elif model == GEMMA:
            assert all(body["choices"][0]["text"].startswith(" 7, 8") for body in bodies.values())
        else:
            cat, kitten, car = (bodies[one]["data"][0]["embedding"] for one in ids[:3])
            assert cosine(cat, kitten) > cosine(cat, car) + 0.2
    scores_of_an_embedding_model(vbs, texts)
    loads = {model: [one for one in measured(vbs, model) if one["kind"] == "load"] for model in queues}
    assert {model: len(found) for model, found in loads.items()} == {SMOL: 1, GEMMA: 1, MINILM: 1}
    turns = {model: [one for one in measured(vbs, model) if one["kind"] == "batch"] for model in queues}
    assert {model: sum(one["requests"] for one in found) for model, found in turns.items()} == {
        SMOL: 30,
        GEMMA: 30,
        MINILM: 11,
    }


def scores_of_an_embedding_model(vbs, texts):
    """A score, and the order of the documents by it, from the engine that is loaded."""
    bodies = {
        "/v1/score": {"queries": texts[0], "documents": texts[1:]},
        "/v1/rerank": {"query": texts[0], "documents": texts[:0:-1]},
    }
    answers = {}
    for endpoint, body in bodies.items():
        asked = {"custom_id": "s", "method": "POST", "url": endpoint, "body": {"model": MINILM} | body}
        good, bad = vbs.books(vbs.wait(vbs.create([asked], endpoint=endpoint), seconds=400), ["s"])
        assert not bad
        answers[endpoint] = good[0]["response"]["body"]
    kitten, engine = (one["score"] for one in answers["/v1/score"]["data"])
    assert kitten > engine + 0.2
    ranked = [(one["document"]["text"], one["relevance_score"]) for one in answers["/v1/rerank"]["results"]]
    assert [text for text, _ in ranked] == texts[1:] and ranked[0][1] == pytest.approx(kitten, abs=1e-5)


@pytest.mark.many
def test_what_a_model_takes_and_does_is_measured(vbs):
    """Load, test, benchmark, unload by hand; what it takes is near what was said of it, nearer once it was loaded."""
    vbs.manage("model", "load", SMOL)
    assert vbs.client.models.retrieve(SMOL).model_extra["loaded"]
    assert "Paris" in json.loads(vbs.manage("model", "test", SMOL, "--json"))["result"]["answer"]
    done = json.loads(vbs.manage("model", "benchmark", SMOL, "--requests=20", "--max-tokens=16", "--cold", "--json"))
    found = measured(vbs, SMOL)[0]
    assert done["state"] == "succeeded" and found["kind"] == "benchmark" and found["requests"] == 20
    assert 160 <= found["output_tokens"] <= 320 and found["latency_p50"] <= found["latency_p99"] <= found["seconds"]
    assert found["load_seconds"] < found["first_token_seconds"] < found["load_seconds"] + 60
    assert found["memory_bytes"] == pytest.approx(found["predicted_bytes"], rel=0.25)
    fit = vbs.http.get(f"/registry/models/{SMOL}/fit").json()
    assert fit["loads"] >= 1
    speed = vbs.client.models.retrieve(SMOL).model_extra
    assert speed["measurements"] >= 1 and speed["tokens_per_second"] > 0 and speed["load_seconds"] > 0
    vbs.manage("model", "unload", SMOL)
    assert not vbs.client.models.retrieve(SMOL).model_extra["loaded"] and "engine" not in vbs.pids()


@pytest.mark.many
def test_a_context_that_does_not_fit_is_made_shorter(vbs):
    """A cache of 40 MB holds less than the 8,192 tokens that are asked for; the load says what it changed."""
    folder = vbs.stack.data / "models" / SMOL
    vbs.manage("model", "add", "tight", str(folder), "--arg=max-model-len=8192", "--arg=kv-cache-memory-bytes=40000000")
    result = json.loads(vbs.manage("model", "load", "tight", "--json"))["result"]
    assert 256 <= result["less"]["max-model-len"] < 8192
    good, _ = vbs.books(
        vbs.wait(vbs.create([line("a", FRANCE, model="tight", max_tokens=16, temperature=0)]), seconds=400), ["a"]
    )
    assert "Paris" in good[0]["response"]["body"]["choices"][0]["message"]["content"]


@pytest.mark.many
def test_a_tuning_measures_settings_and_changes_nothing_when_it_is_cancelled(vbs):
    """Two settings on the real engine, with lines of a file; how many it would try depends on the machine."""
    lines = [ask(f"r{n}", max_tokens=4) for n in range(20)]
    file = vbs.upload(lines).id
    before = json.loads(vbs.manage("model", "show", SMOL))
    given = ("--file", file, "--requests=8", "--minutes=30", "--detach")
    operation = vbs.manage("model", "tune", SMOL, *given).split()[-1]
    until(lambda: len((told(vbs, operation)["result"] or {}).get("candidates", [])) >= 2, 1200)
    vbs.manage("model", "cancel", operation)
    until(lambda: "engine" not in vbs.pids(), 60)
    ended = told(vbs, operation)
    first, second = ended["result"]["candidates"][:2]
    assert ended["state"] == "cancelled" and ended["result"]["sample"] == f"8 requests of {file}"
    assert first["setting"] == {} and first["requests"] == 8 and first["tokens_per_second"] > 0 < first["load_seconds"]
    assert len(second["setting"]) == 1 and (second["requests"] == 8 or second["error"])
    after = json.loads(vbs.manage("model", "show", SMOL))
    assert after["engine_args"] == before["engine_args"]
    good, _ = vbs.books(vbs.wait(vbs.create([ask("a")]), seconds=400), ["a"])
    assert "Paris" in good[0]["response"]["body"]["choices"][0]["message"]["content"]


def told(vbs, operation):
    """The operation, as a command on the server sees it."""
    found = json.loads(vbs.manage("model", "operations", SMOL, "--json"))
    return next(one for one in found if one["id"] == operation)


def measured(vbs, model):
    """As an operator's key is told: batches are of projects, and their turns nothing for other keys."""
    key = vbs.manage("create_api_key", "--project", "one", "--name", "measured", "--operator").split()[-1]
    headers = {"Authorization": f"Bearer {key}"}
    return vbs.http.get(f"/registry/models/{model}/measurements", headers=headers).json()["data"]


def cosine(one, other):
    def length(vector):
        return sum(x * x for x in vector) ** 0.5

    return sum(x * y for x, y in zip(one, other, strict=True)) / length(one) / length(other)


@pytest.mark.parametrize("count", few([120, 400]))
def test_kill_the_worker_and_the_engine_in_the_middle(vbs, count):
    """The new worker adopts the engine; a new engine is started for the old worker. Every answer comes once.

    Few sequences at once make a batch last that is small.
    """
    vbs.manage("model", "edit", SMOL, "--arg=max-num-seqs=32")
    ids = [f"k{n}" for n in range(count)]
    batch = vbs.create([ask(one, f"Say something about the number {one}.", max_tokens=8) for one in ids])
    vbs.wait(batch, {"in_progress"}, seconds=600, done=20)
    engine = vbs.pids()["engine"]
    os.kill(worker(vbs), signal.SIGKILL)
    done = vbs.retrieve(batch.id).request_counts.completed
    vbs.wait(batch, {"in_progress"}, seconds=300, done=done + 20)
    assert vbs.pids()["engine"] == engine, "the engine outlived its worker and was adopted"
    os.kill(engine, signal.SIGKILL)
    ended = vbs.wait(batch, seconds=800)
    good, bad = vbs.books(ended, ids)
    assert ended.status == "completed" and not bad and len(good) == count
    assert "The engine died" in vbs.log(ended)
    assert vbs.pids()["engine"] != engine
    assert not [one for one in psutil.pids() if session(one) == engine], "nothing is left of the killed engine"


@pytest.mark.many
def test_a_model_that_cannot_be_loaded_says_why(vbs):
    folder = vbs.stack.data / "models" / SMOL
    vbs.manage("model", "add", "too-long", str(folder), "--arg=max-model-len=1000000")
    ended = vbs.wait(vbs.create([line("a", model="too-long")]), seconds=400)
    (error,) = ended.errors.data
    assert ended.status == "failed" and error.code == "model_load_failed"
    assert "max_model_len" in error.message and "Lower max-model-len" in error.message


def test_requests_reach_the_engine_whole(vbs):
    """Tools, a schema, several choices and log probabilities are the engine's business, and it sees them."""
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    asked = {"type": "json_schema", "json_schema": {"name": "pick", "schema": schema}}
    batch = vbs.create(
        [
            ask("schema", "Pick a number.", response_format=asked, max_tokens=40),
            ask("many", n=3, temperature=0.9),
            ask("logprobs", logprobs=True, top_logprobs=2),
        ]
    )
    good, _ = vbs.books(vbs.wait(batch, seconds=600), ["schema", "many", "logprobs"])
    choices = {one["custom_id"]: one["response"]["body"]["choices"] for one in good}
    assert json.loads(choices["schema"][0]["message"]["content"])["n"] in (1, 2)
    assert len(choices["many"]) == 3
    assert len(choices["logprobs"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2


def test_people_are_answered_while_batches_fill_the_engine(vbs):
    """The official client streams meanwhile, ahead of the lines; and a stream that nobody reads frees its place."""
    batches = [vbs.create([ask(f"r{n}", max_tokens=48, ignore_eos=True) for n in range(150)]) for _ in range(2)]
    vbs.wait(batches[0], until={"in_progress"}, seconds=400, done=1)
    asked = {"model": SMOL, "messages": [{"role": "user", "content": FRANCE}], "max_tokens": 16, "temperature": 0}
    chunks = list(vbs.client.chat.completions.create(**asked, stream=True))
    said = "".join(one.choices[0].delta.content or "" for one in chunks)
    assert "Paris" in said and {one.model for one in chunks} == {SMOL}, said
    *_, last = vbs.client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    assert 0 < last.usage.completion_tokens <= 16 and last.choices == []
    assert vbs.retrieve(batches[1].id).status == "in_progress", "the batches are still under way"
    steps = list(vbs.client.responses.create(model=SMOL, input=FRANCE, max_output_tokens=8, stream=True))
    assert steps[-1].type in ("response.completed", "response.incomplete") and steps[-1].response.model == SMOL
    own = {"priority": 7, "cache_salt": "mine"}
    answer = vbs.client.completions.create(model=SMOL, prompt="1, 2, 3,", max_tokens=4, extra_body=own)
    assert answer.usage.completion_tokens == 4
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        vbs.client.chat.completions.create(**asked | {"max_tokens": 100_000})
    for batch in batches:
        _, bad = vbs.books(vbs.wait(batch, seconds=900), [f"r{n}" for n in range(150)])
        assert not bad
    state = json.loads((vbs.stack.data / "run" / "gpu" / "engine.json").read_text())
    assert state["started"]["options"]["scheduling-policy"] == "priority"
    address = Address(**state["address"])

    def running():
        return figures.ask(address, 10).running

    stream = vbs.client.chat.completions.create(
        **asked | {"max_tokens": 1900}, extra_body={"ignore_eos": True}, stream=True
    )
    next(iter(stream))
    assert running() == 1
    stream.close()
    until(lambda: running() == 0)


def asking(number, model):
    return line(f"{model} {number}", FRANCE, model=model, max_tokens=32, temperature=0, ignore_eos=True)


@pytest.mark.many
def test_an_adapter_answers_differently_on_the_running_engine(vbs, tmp_path):
    """Weights without sense, and large: what it says has nothing to do with what its base says."""
    modules = tuple(f"model.layers.{layer}.self_attn.{part}_proj" for layer in range(4) for part in ("q", "o"))
    folders = [adapter_folder(tmp_path / name, modules, 576, 576, rank=8, scale=0.3) for name in ("one", "two")]
    vbs.manage("model", "add", "one", str(folders[0]), "--base", SMOL)
    asking_both = [line(name, FRANCE, model=name, max_tokens=16, temperature=0) for name in (SMOL, "one")]
    first = vbs.wait(vbs.create(asking_both), seconds=400)
    engine = vbs.pids()["engine"]
    vbs.manage("model", "add", "two", str(folders[1]), "--base", SMOL)
    second = vbs.run([line("two", FRANCE, model="two", max_tokens=16, temperature=0)])
    assert vbs.pids()["engine"] == engine, "loaded without a restart"
    said = {}
    for batch in (first, second):
        for one in vbs.lines(batch.output_file_id):
            body = one["response"]["body"]
            assert body["model"] == one["custom_id"]
            said[one["custom_id"]] = body["choices"][0]["message"]["content"]
    assert "Paris" in said[SMOL]
    assert said["one"] == said["two"] != said[SMOL]
    shared = {name: vbs.create([asking(n, name) for n in range(80)]) for name in (SMOL, "one", "two")}
    vbs.wait(shared["two"], until={"in_progress"}, seconds=400, done=1)
    asked = {"messages": [{"role": "user", "content": FRANCE}], "max_tokens": 8, "temperature": 0}
    words = [
        "".join(one.choices[0].delta.content or "" for one in chunks)
        for chunks in (vbs.client.chat.completions.create(model=name, stream=True, **asked) for name in ("one", SMOL))
    ]
    assert said["one"].startswith(words[0]) and said[SMOL].startswith(words[1]), "people ask the adapters meanwhile too"
    ended = {name: vbs.wait(batch, seconds=900) for name, batch in shared.items()}
    for name, batch in ended.items():
        good, bad = vbs.books(batch, [f"{name} {n}" for n in range(80)])
        assert not bad and {one["response"]["body"]["model"] for one in good} == {name}
        texts = {one["response"]["body"]["choices"][0]["message"]["content"] for one in good}
        assert all(text.startswith(said[name][:8]) for text in texts), "by its own weights, beside the others"
    assert max(one.in_progress_at for one in ended.values()) <= min(one.finalizing_at for one in ended.values())
    assert vbs.pids()["engine"] == engine, "one engine has run all three at the same time"
    listed = {model.id: model.model_extra for model in vbs.client.models.list()}
    assert all(listed[name]["parent"] == SMOL and listed[name]["loaded"] for name in ("one", "two"))
    log = max((vbs.stack.data / "run" / "gpu").glob("engine-*.log"), key=os.path.getmtime)
    vbs.manage("model", "unload", "one")
    assert log.read_text().count(GONE) == 1
    key = vbs.manage("create_api_key", "--project", "one", "--name", "operator", "--operator").split()[-1]
    assert vbs.open(key).models.delete("two").deleted
    end = time.monotonic() + 30
    while log.read_text().count(GONE) < 2:
        assert time.monotonic() < end, "it was not unloaded"
        time.sleep(0.2)
    listed = {model.id: model.model_extra for model in vbs.client.models.list()}
    assert "two" not in listed and not listed["one"]["loaded"] and listed[SMOL]["loaded"]
    assert vbs.pids()["engine"] == engine
    foreign = adapter_folder(tmp_path / "foreign", modules, 640, 640)
    with pytest.raises(AssertionError, match="adapter of another base"):
        vbs.manage("model", "add", "foreign", str(foreign), "--base", SMOL)


def worker(vbs):
    (found,) = [one for one in vbs.http.get("/queue").json()["workers"] if one["cluster"] == "gpu"]
    return found["pid"]


def session(pid):
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def test_stopping_leaves_nothing(vbs):
    """Last: with an engine loaded, the whole stack stops within 15 seconds."""
    engine = vbs.pids()["engine"]
    started = time.monotonic()
    vbs.stack.stop()
    assert time.monotonic() - started < 15
    assert not [one for one in psutil.pids() if session(one) == engine]
