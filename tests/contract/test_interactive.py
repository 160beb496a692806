"""The official client asks models directly, streamed and whole."""

import json

import httpx
import openai
import pytest

from tests.engines import until

SAID = "one two three"
MESSAGES = [{"role": "user", "content": SAID}]


@pytest.fixture(scope="module")
def loaded(vbs):
    """The client, with the model `scripted` loaded."""
    vbs.manage("model", "load", "scripted")
    return vbs.client


def test_chat(loaded):
    answer = loaded.chat.completions.create(model="scripted", messages=MESSAGES)
    assert answer.choices[0].message.content == SAID and answer.usage.completion_tokens == 3
    chunks = list(loaded.chat.completions.create(model="scripted", messages=MESSAGES, stream=True))
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == SAID
    assert {one.model for one in chunks} == {"scripted"} and not any(one.usage for one in chunks)
    *_, last = loaded.chat.completions.create(
        model="scripted", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    assert last.usage.completion_tokens == 3


def test_completions(loaded):
    assert loaded.completions.create(model="scripted", prompt=SAID).choices[0].text == SAID
    chunks = loaded.completions.create(model="scripted", prompt=SAID, stream=True)
    assert "".join(one.choices[0].text for one in chunks) == SAID


def test_embeddings(vbs, loaded):
    with pytest.raises(openai.BadRequestError, match="is for chat; it is not supported at /v1/embeddings"):
        loaded.embeddings.create(model="scripted", input=["a", "b"])
    vbs.manage("model", "edit", "scripted", "--task", "embedding")
    answer = loaded.embeddings.create(model="scripted", input=["a", "b"])
    vbs.manage("model", "edit", "scripted", "--task", "chat")
    assert [len(one.embedding) for one in answer.data] == [8, 8]


def test_responses(loaded):
    assert loaded.responses.create(model="scripted", input=SAID).output_text == SAID
    steps = list(loaded.responses.create(model="scripted", input=SAID, stream=True))
    assert steps[-1].type == "response.completed" and steps[-1].response.output_text == SAID
    assert "".join(one.delta for one in steps if one.type == "response.output_text.delta") == SAID


def test_errors_are_those_of_the_client(vbs, loaded):
    with pytest.raises(openai.NotFoundError) as none:
        loaded.chat.completions.create(model="nothing", messages=MESSAGES)
    assert none.value.code == "model_not_found" and none.value.param == "model"
    with pytest.raises(openai.InternalServerError) as away:
        loaded.chat.completions.create(model="slow", messages=MESSAGES)
    assert away.value.status_code == 503 and away.value.code == "model_not_loaded"
    assert "Loaded: scripted" in away.value.message and int(away.value.response.headers["retry-after"]) > 0
    with pytest.raises(openai.BadRequestError, match="max_tokens must be at least 1"):
        loaded.chat.completions.create(model="scripted", messages=MESSAGES, max_tokens=0)
    with pytest.raises(openai.AuthenticationError):
        vbs.open("wrong").chat.completions.create(model="scripted", messages=MESSAGES)
    with pytest.raises(openai.APIError, match="ended before its answer was whole"):
        list(
            loaded.chat.completions.create(
                model="scripted", messages=[{"role": "user", "content": f"{SAID} [[cut 2]]"}], stream=True
            )
        )


def test_a_client_that_goes_away_is_noticed_by_the_engine(vbs, loaded):
    def of_engine(name):
        state = json.loads((vbs.stack.data / "run" / "gpu" / "engine.json").read_text())
        link = httpx.HTTPTransport(uds=state["address"]["socket"])
        with httpx.Client(transport=link, base_url="http://engine") as client:
            return client.get("/stats").json()[name]

    before = of_engine("aborted")
    stream = loaded.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "[[hang]]"}], stream=True
    )
    assert of_engine("running") == 1
    stream.close()
    until(lambda: (of_engine("aborted"), of_engine("running")) == (before + 1, 0))


def test_the_body_is_bounded(vbs, loaded):
    large = {"model": "scripted", "messages": [{"role": "user", "content": "x" * 3_000_000}]}
    assert vbs.http.post("/chat/completions", json=large).status_code == 200, "as long as a line of a file may be"
    answer = vbs.http.post("/chat/completions", json={"model": "x" * 17_000_000})
    assert answer.status_code == 413 and "VBS_MAX_LINE_MB" in answer.json()["error"]["message"]


def test_models_say_who_would_answer(loaded):
    found = {one.id: one.interactive for one in loaded.models.list()}
    assert found["scripted"] == {"available": True, "reason": None}
    assert found["slow"] == {"available": False, "reason": "It is not loaded now."}


def test_other_methods_are_refused(vbs):
    answer = vbs.http.get("/chat/completions")
    assert answer.status_code == 405 and answer.json()["error"]["code"] == "method_not_allowed"
