"""What vLLM refuses is found in validation: of what is asked it fails the batch, of a setting its line alone, of which
the batch's log tells beforehand."""

import io
import json
import os
import subprocess
import sys

import pytest

from batches.intake import ingest, values
from batches.intake.parameters import Serving
from batches.intake.validate import Report, Rules, read
from tests.engines import CHAT, line

RESPONSES, COMPLETIONS, EMBEDDINGS = "/v1/responses", "/v1/completions", "/v1/embeddings"
SCORE, RERANK = "/v1/score", "/v1/rerank"
HI = [{"role": "user", "content": "hi"}]
NEEDED = {
    CHAT: {"messages": HI},
    RESPONSES: {"input": "hi"},
    COMPLETIONS: {"prompt": "hi"},
    EMBEDDINGS: {"input": "hi"},
    SCORE: {"queries": "hi", "documents": ["a", "b"]},
    RERANK: {"query": "hi", "documents": ["a", "b"]},
}

BAD = [
    (CHAT, {"messages": "hi"}, "expected a non-empty array of objects, but got a string"),
    (CHAT, {"messages": {"role": "user"}}, "but got an object"),
    (CHAT, {"messages": [HI[0], "hi"]}, "its element 1 is a string"),
    (CHAT, {"messages": [None]}, "its element 0 is null"),
    (CHAT, {"max_tokens": -5}, "expected a whole number from 1 on, but got -5"),
    (CHAT, {"max_tokens": 0}, "from 1 on, but got 0"),
    (CHAT, {"max_tokens": 1.5}, "a whole number"),
    (CHAT, {"max_tokens": "many"}, "but got a string"),
    (CHAT, {"max_tokens": [5]}, "but got an array"),
    (CHAT, {"max_completion_tokens": 0, "max_tokens": 5}, "'max_completion_tokens'"),
    (CHAT, {"n": 0}, "from 1 on"),
    (CHAT, {"temperature": 2.1}, "expected a number from 0 to 2, but got 2.1"),
    (CHAT, {"temperature": -0.1}, "but got -0.1"),
    (CHAT, {"temperature": {}}, "but got an object"),
    (CHAT, {"top_p": 0}, "expected a number above 0 to 1, but got 0"),
    (CHAT, {"top_p": 0, "temperature": 0}, "above 0"),
    (CHAT, {"top_k": -2}, "from -1 on"),
    (CHAT, {"min_p": 1.5}, "from 0 to 1"),
    (CHAT, {"presence_penalty": 3}, "from -2 to 2"),
    (CHAT, {"repetition_penalty": 0}, "above 0"),
    (CHAT, {"min_tokens": -1}, "from 0 on"),
    (CHAT, {"seed": 1.5}, "a whole number"),
    (CHAT, {"seed": 2**64 - 1}, "from -9223372036854775808 to 9223372036854775808, but got 18446744073709551615"),
    (CHAT, {"seed": 2**64}, "but got about 1.84e+19"),
    (CHAT, {"stop": 5}, "a string or an array of strings"),
    (CHAT, {"stop": ["a", 5]}, "expected strings"),
    (CHAT, {"tools": {}}, "expected an array of objects, but got an object"),
    (CHAT, {"tools": ["f"]}, "an array of objects"),
    (CHAT, {"logit_bias": [1]}, "expected an object"),
    (COMPLETIONS, {"prompt": 5}, "a string or an array, but got a number"),
    (COMPLETIONS, {"prompt": {"a": 1}}, "but got an object"),
    (COMPLETIONS, {"max_tokens": -1}, "from 0 on"),
    (RESPONSES, {"input": 5}, "a string or an array"),
    (RESPONSES, {"max_output_tokens": 0}, "from 1 on"),
    (EMBEDDINGS, {"input": True}, "but got true or false"),
    (SCORE, {"queries": 5}, "expected a string or an array of strings, but got a number"),
    (SCORE, {"documents": ["a", 5]}, "its element 1 is a number"),
    (RERANK, {"query": ["a"]}, "expected a string, but got an array"),
    (RERANK, {"documents": [None]}, "its element 0 is null"),
    (RERANK, {"top_n": -1}, "from 0 on"),
]
GOOD = [
    (CHAT, {}),
    *((CHAT, {"max_tokens": value}) for value in (1, 5.0, "5", True, None)),
    (CHAT, {"max_tokens": -5, "max_completion_tokens": 5}),
    (CHAT, {"temperature": "0.5", "top_p": 1, "top_k": -1, "min_p": 0, "seed": -1, "n": None, "stop": None}),
    (CHAT, {"stop": [], "temperature": 2, "frequency_penalty": -2, "seed": 2**63 - 1, "logit_bias": {"5": 1}}),
    (CHAT, {"temperature": 0, "top_k": 0, "stop": "x", "repetition_penalty": 1e-9, "tools": None}),
    (COMPLETIONS, {"max_tokens": 0, "echo": True}),
    *((COMPLETIONS, {"prompt": prompt}) for prompt in ("a", [1, 2], [[1], [2]], ["a", "b"])),
    (RESPONSES, {"input": HI, "max_output_tokens": 1, "temperature": None}),
    (SCORE, {"queries": "a"}),
    (SCORE, {"queries": ["a", "b"]}),
    (SCORE, {"queries": {"content": []}}),
    (RERANK, {"documents": "a", "top_n": 9}),
    *((EMBEDDINGS, {"input": given}) for given in ([1, 2], [[1]], ["a"], "a")),
]
VLLM = """
import json, sys
import vllm.entrypoints.openai.api_server
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingCompletionRequest
from vllm.entrypoints.pooling.scoring.protocol import RerankRequest, ScoreQueriesDocumentsRequest
kinds = {
    "/v1/chat/completions": ChatCompletionRequest, "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest, "/v1/embeddings": EmbeddingCompletionRequest,
    "/v1/score": ScoreQueriesDocumentsRequest, "/v1/rerank": RerankRequest,
}
def takes(endpoint, body):
    try:
        request = kinds[endpoint].model_validate(body)
        limits = [getattr(request, name, None) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")]
        if endpoint not in ("/v1/embeddings", "/v1/score", "/v1/rerank"):
            request.to_sampling_params(next((one for one in limits if one is not None), 16), {})
        return True
    except Exception as error:
        return False
print("\\n" + json.dumps([takes(*one) for one in json.load(sys.stdin)]))
"""


def checked(endpoint, body, **serving):
    report = Report()
    rules = Rules(endpoint, lambda name: None, 100, 2**20, serving=lambda name: Serving(**serving))
    request = {"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": "m"} | NEEDED[endpoint] | body}
    return list(read(io.BytesIO(json.dumps(request).encode()), rules, report)), report


@pytest.mark.parametrize("endpoint, body, said", BAD)
def test_a_value_that_vllm_refuses(endpoint, body, said):
    good, report = checked(endpoint, body)
    if body.keys() & NEEDED[endpoint].keys():
        (error,) = report.errors
        assert not good and error["code"] == "invalid_request" and said in error["message"]
        assert error["param"] == f"body.{next(iter(body))}"
    else:
        (told,) = (
            ingest.remarks(report, endpoint) if report.unlimited is None else list(ingest.remarks(report, endpoint))[:1]
        )
        assert good and not report.errors and said in told and "1 requests, the first on line 1" in told
        assert f"'{next(iter(body))}'" in told


@pytest.mark.parametrize("endpoint, body", GOOD)
def test_a_value_that_vllm_takes(endpoint, body):
    good, report = checked(endpoint, body)
    assert good and not report.errors and not report.refused


def test_a_chat_needs_a_message():
    """vLLM finds it only when it puts the prompt together."""
    assert "but got an empty array" in checked(CHAT, {"messages": []})[1].errors[0]["message"]


@pytest.mark.parametrize(
    "endpoint, body, param, said",
    [
        (SCORE, {"documents": []}, "documents", "at least one string"),
        (SCORE, {"queries": []}, "queries", "at least one string"),
        (SCORE, {"queries": ["a", "b", "c"]}, "queries", "it has 3 texts and 'documents' has 2: give one, or as many"),
        (SCORE, {"documents": None}, "documents", "is required for /v1/score. The pairs text_1 and text_2"),
        (SCORE, {"documents": None, "queries": None, "text_2": "a"}, "text_1", "The pairs queries and documents"),
        (SCORE, {"documents": None, "queries": None}, "queries", "is required"),
        (RERANK, {"query": None}, "query", "The field 'body.query' is required for /v1/rerank."),
        (RERANK, {"documents": []}, "documents", "at least one string"),
    ],
)
def test_a_score_needs_two_sides_that_go_together(endpoint, body, param, said):
    """vLLM finds their number only when it puts the pairs together."""
    good, report = checked(endpoint, body)
    (error,) = report.errors
    assert not good and (error["code"], error["param"]) == ("invalid_request", f"body.{param}")
    assert said in error["message"]


@pytest.mark.parametrize("pair", [("text_1", "text_2"), ("queries", "items"), ("data_1", "data_2")])
def test_the_sides_of_a_score_have_several_names(pair):
    one, other = pair
    good, report = checked(SCORE, {"queries": None, "documents": None, one: "a", other: ["b", "c"]})
    assert good and not report.errors and not report.ignored


def test_ranges_are_not_those_of_a_search_with_beams():
    assert not checked(CHAT, {"use_beam_search": True, "temperature": 3})[1].refused
    assert checked(CHAT, {"use_beam_search": True, "stop": 5})[1].refused


def test_a_remote_server_says_itself_what_it_takes():
    good, report = checked(CHAT, {"temperature": 7, "messages": "hi"}, is_remote=True)
    assert good and not report.refused


def test_the_batch_s_log_tells_them_and_each_fails_alone(add_model, submitted, gpu, close):
    add_model()
    batch = submitted([line("a"), line("b", max_tokens=-1), line("c", max_tokens=0), line("d")])
    said = " ".join(batch.events.values_list("message", flat=True))
    assert (
        "refuse 2 requests, the first on line 2, for the value of 'max_tokens': expected a whole number from 1" in said
    )
    gpu.serve()
    good, bad = close(batch)
    assert {one["custom_id"] for one in good} == {"a", "d"} and {one["custom_id"] for one in bad} == {"b", "c"}


@pytest.mark.slow
@pytest.mark.many
def test_the_installed_vllm_agrees():
    asked = [(endpoint, {"model": "m"} | NEEDED[endpoint] | body) for endpoint, body, *_ in BAD + GOOD]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", VLLM]
    done = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, text=True, timeout=300, env=environment, cwd="/"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [one for one, takes in zip(asked, found, strict=True) if takes != (values.wrong(*one) is None)] == []
