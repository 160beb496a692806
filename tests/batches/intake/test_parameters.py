"""Parameters that the engine ignores, gave up, or cannot honour as it is set; and answers without a limit."""

import io
import json
import os
import subprocess
import sys

import pytest

from batches.intake import ingest, parameters
from batches.intake.parameters import Serving
from batches.intake.validate import MAX_IGNORED, Report, Rules, read
from batches.models import BatchStatus
from models_registry.catalog import tool_calls
from models_registry.models import Model
from tests.engines import CHAT, line, lines_of
from vbs.openai import lengths, raw_json

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
RESPONSES, COMPLETIONS, EMBEDDINGS = "/v1/responses", "/v1/completions", "/v1/embeddings"
FIELDS = """
import json
import vllm.entrypoints.openai.api_server
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingChatRequest, EmbeddingCompletionRequest
from vllm.entrypoints.pooling.scoring import protocol as scoring
from vllm.entrypoints.serve.engine.protocol import _REMOVED_GUIDED_FIELDS
kinds = {
    "/v1/chat/completions": [ChatCompletionRequest], "/v1/completions": [CompletionRequest],
    "/v1/responses": [ResponsesRequest], "/v1/embeddings": [EmbeddingChatRequest, EmbeddingCompletionRequest],
    "/v1/score": scoring.ScoreRequest.__args__, "/v1/rerank": [scoring.RerankRequest],
}
names = {url: [f.alias or n for kind in found for n, f in kind.model_fields.items()] for url, found in kinds.items()}
print("\\n" + json.dumps([names, sorted(_REMOVED_GUIDED_FIELDS)]))
"""


@pytest.mark.slow
@pytest.mark.many
def test_they_are_those_of_the_installed_vllm():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", FIELDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr[-2000:]
    names, removed = json.loads(done.stdout.splitlines()[-1])
    assert {url: frozenset(found) for url, found in names.items()} == parameters.KNOWN
    assert {*removed, "extra_body"} == parameters._GIVEN_UP.keys()


def checked(serving=None, endpoint=CHAT, **body):
    report = Report()
    rules = Rules(endpoint, lambda name: None, 100, 2**20, serving=lambda name: serving or Serving())
    good = list(read(io.BytesIO(json.dumps(line("a", **body) | {"url": endpoint}).encode()), rules, report))
    return good, report


@pytest.mark.parametrize("name", parameters._GIVEN_UP)
def test_what_vllm_gave_up_is_refused_with_what_to_write_now(name):
    good, report = checked(**{name: {"x": 1}})
    (error,) = report.errors
    assert not good and (error["code"], error["param"]) == ("unsupported_parameter", f"body.{name}")
    assert name in error["message"] and ("write" in error["message"] or "leave it out" in error["message"])
    assert checked(**{name: None})[0], "it asks for nothing"
    good, report = checked(Serving(is_remote=True), **{name: {"x": 1}})
    assert good and report.ignored[name].count == 1, "a remote server may know it"


@pytest.mark.parametrize(
    "choice, refused", [(..., True), ("auto", True), ("required", True), ("none", False), (None, False)]
)
@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES])
def test_tools_need_an_engine_that_reads_their_calls(endpoint, choice, refused):
    body = {"tools": TOOLS, "input": "hello"} | ({} if choice is ... else {"tool_choice": choice})
    good, report = checked(Serving(reads_tool_calls=False), endpoint, **body)
    assert (not good) == refused
    if refused:
        assert report.errors[0]["param"] == "body.tools" and "enable-auto-tool-choice" in report.errors[0]["message"]
    assert checked(None, endpoint, **body)[0]
    assert checked(Serving(reads_tool_calls=False), endpoint, **body | {"tools": []})[0]


def test_which_engines_read_tool_calls(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')

    def model(kind="vllm", **args):
        return Model(name="m", kind=kind, source=str(tmp_path), engine_args=args)

    assert not tool_calls.are_read(model())
    assert not tool_calls.are_read(model(**{"tool-call-parser": "hermes"}))
    both = {"tool-call-parser": "hermes", "enable-auto-tool-choice": True}
    assert tool_calls.are_read(model(**both)) and tool_calls.are_read(model("remote"))
    assert tool_calls.are_read(Model(name="adapter", kind="vllm", base=model(**both)))
    (tmp_path / "config.json").write_text('{"model_type": "gpt_oss"}')
    assert tool_calls.are_read(model())


def test_names_are_few_however_many_there_are():
    report = Report()
    for number in range(1000):
        report.remark(number, [f"name {number}"], False)
    assert len(report.ignored) == MAX_IGNORED + 1 and report.ignored[""].count == 1000 - MAX_IGNORED


@pytest.mark.parametrize(
    "endpoint, body, unlimited, becomes",
    [
        (CHAT, {}, True, {"max_tokens": 9}),
        (CHAT, {"max_tokens": 3}, False, {}),
        (CHAT, {"max_completion_tokens": 3}, False, {}),
        (CHAT, {"max_tokens": None, "max_completion_tokens": 3}, False, {}),
        (CHAT, {"max_tokens": None}, True, {"max_tokens": 9}),
        (COMPLETIONS, {}, False, {}),
        (COMPLETIONS, {"max_tokens": None}, True, {"max_tokens": 9}),
        (RESPONSES, {}, True, {"max_output_tokens": 9}),
        (RESPONSES, {"max_output_tokens": 3}, False, {}),
        (EMBEDDINGS, {}, False, {}),
    ],
)
def test_a_limit_for_those_that_have_none(endpoint, body, unlimited, becomes):
    assert lengths.is_unlimited(endpoint, body) == unlimited
    members = raw_json.members(json.dumps(body).encode())
    assert lengths.is_unlimited(endpoint, members) == unlimited
    lengths.limit(endpoint, members, raw_json.raw(9))
    assert json.loads(raw_json.text_of(members)) == body | becomes


def said(batch):
    return " ".join(batch.events.values_list("message", flat=True))


def test_the_batch_s_log_tells_what_is_ignored_and_what_has_no_limit(add_model, submitted, gpu, close, settings):
    add_model()
    batch = submitted([line("a", max_tokens=5), line("b", bestof=3), line("c", bestof=3, **{"x\n": 1})])
    assert (batch.status, batch.unlimited) == (BatchStatus.VALIDATING, 2)
    assert "'bestof' in 2 requests, first on line 2" in said(batch) and r"'x\n' in 1 requests" in said(batch)
    assert "2 requests, the first on line 2, have no max_tokens" in said(batch) and "VBS_DEFAULT_MAX_TOKENS" in said(
        batch
    )
    settings.VBS_DEFAULT_MAX_TOKENS = 2
    gpu.serve()
    good, _ = close(batch)
    written = {one["custom_id"]: one["response"]["body"]["usage"]["completion_tokens"] for one in good}
    assert written["b"] == written["c"] == min(2, written["a"])
    assert "have at most 2 tokens" in said(submitted([line("a")]))


def test_nothing_is_told_of_what_is_right(add_model, submitted):
    add_model()
    batch = submitted([line("a", max_tokens=5)])
    assert not batch.events.filter(level="warning").exists() and lines_of(batch.input_file)
    assert list(ingest.remarks(Report(), CHAT)) == []
