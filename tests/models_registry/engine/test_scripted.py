"""The scripted engine over its Unix socket: what it answers, and how it misbehaves on demand."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.adapters import adapter_folder

KEY = "a-key-of-its-own"


@contextmanager
def engine(folder: Path, *options: str, wait: bool = True) -> Iterator[subprocess.Popen[str]]:
    """A scripted engine that serves `model` on `folder/socket`."""
    command = [
        sys.executable,
        "-m",
        "models_registry.engine.scripted.server",
        "--uds",
        str(folder / "socket"),
        "--counters",
    ]
    process = subprocess.Popen(
        [*command, "--served-model-name", "model", *options],
        env=os.environ | {"VLLM_API_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout
        while wait and "startup complete" not in (line := process.stdout.readline()):
            assert line, "it ended before it was ready"
        yield process
    finally:
        process.kill()
        process.communicate()


def talk(folder: Path, conversation: Callable[[aiohttp.ClientSession], Awaitable[Any]], key: str = KEY) -> Any:
    async def run() -> Any:
        connector = aiohttp.UnixConnector(str(folder / "socket"), limit=0)
        headers = {"Authorization": f"Bearer {key}"}
        async with aiohttp.ClientSession("http://engine", connector=connector, headers=headers) as session:
            return await conversation(session)

    return asyncio.run(run())


async def post(session: aiohttp.ClientSession, path: str, body: Any) -> tuple[int, Any]:
    async with session.post(path, data=body if isinstance(body, bytes) else json.dumps(body)) as response:
        return response.status, await response.json()


def chat(text: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    return {"model": "model", "messages": messages, **more}


async def ask(session: aiohttp.ClientSession, text: str, **more: Any) -> tuple[int, Any]:
    return await post(session, "/v1/chat/completions", chat(text, **more))


async def stats(session: aiohttp.ClientSession) -> dict[str, int]:
    async with session.get("/stats") as response:
        return await response.json()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an engine that any number of well-behaved tests share."""
    folder = tmp_path_factory.mktemp("engine")
    with engine(folder):
        yield folder


def test_chat_repeats_the_last_user_message_and_counts_words(plain: Path) -> None:
    status, answer = talk(plain, lambda session: ask(session, "one two three", n=2))
    assert status == 200
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["one two three"] * 2
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    assert (answer["object"], answer["model"]) == ("chat.completion", "model")


def streamed(folder: Path, path: str, body: dict[str, Any]) -> list[tuple[str, float]]:
    """The data of each event, and when it came."""

    async def conversation(session: aiohttp.ClientSession) -> list[tuple[str, float]]:
        found = []
        async with session.post(path, json=body | {"stream": True}) as response:
            assert (response.status, response.content_type) == (200, "text/event-stream")
            async for line in response.content:
                if line.startswith(b"data: "):
                    found.append((line[6:].decode().strip(), time.monotonic()))
        return found

    return talk(folder, conversation)


def test_streams_send_a_word_at_a_time(tmp_path: Path) -> None:
    usage = {"stream_options": {"include_usage": True}}
    with engine(tmp_path, "--token-ms", "50"):
        chunks = streamed(tmp_path, "/v1/chat/completions", chat("one two three", n=2) | usage)
        assert chunks[-1][0] == "[DONE]" and chunks[-1][1] - chunks[0][1] > 0.1, "they do not come at once"
        found = [json.loads(one) for one, _ in chunks[:-1]]
        said = [choice["delta"].get("content", "") for one in found for choice in one["choices"] if not choice["index"]]
        assert [one for one in said if one] == ["one ", "two ", "three"]
        assert {one["object"] for one in found} == {"chat.completion.chunk"} and found[-1]["choices"] == []
        assert found[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
        chunks = streamed(tmp_path, "/v1/completions", {"model": "model", "prompt": "one two", "max_tokens": 1})
        found = [json.loads(one)["choices"][0] for one, _ in chunks[:-1]]
        assert [(one["text"], one["finish_reason"]) for one in found] == [("one", None), ("", "length")]
        steps = [json.loads(one) for one, _ in streamed(tmp_path, "/v1/responses", {"model": "model", "input": "a b"})]
        assert [one["delta"] for one in steps if one["type"] == "response.output_text.delta"] == ["a ", "b"]
        assert steps[-1]["type"] == "response.completed" and steps[-1]["response"]["usage"]["output_tokens"] == 2
        assert [one["sequence_number"] for one in steps] == list(range(len(steps)))
        with pytest.raises(aiohttp.ClientError):
            streamed(tmp_path, "/v1/chat/completions", chat("one two [[cut 2]]"))
        assert talk(tmp_path, lambda session: ask(session, "still there"))[0] == 200


def test_text_parts_are_read(plain: Path) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    body = {"model": "model", "messages": [{"role": "user", "content": parts}]}
    _, answer = talk(plain, lambda session: post(session, "/v1/chat/completions", body))
    assert answer["choices"][0]["message"]["content"] == "one two"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_cuts_words(plain: Path, field: str) -> None:
    _, answer = talk(plain, lambda session: ask(session, "one two three", **{field: 2}))
    assert answer["choices"][0]["message"]["content"] == "one two"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2


def test_other_routes_answer_in_their_shapes(plain: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> list[Any]:
        return [
            await post(session, "/v1/completions", {"model": "model", "prompt": ["a b", "c"]}),
            await post(session, "/v1/embeddings", {"model": "model", "input": ["a", "b", "a"]}),
            await post(session, "/v1/responses", {"model": "model", "input": "a b c", "max_output_tokens": 2}),
            await post(session, "/v1/score", {"model": "model", "text_1": "a b", "text_2": ["c", "b a"]}),
            await post(session, "/v1/rerank", {"model": "model", "query": "a", "documents": ["b", "a"], "top_n": 1}),
        ]

    (_, completion), (_, embedding), (_, response), (_, score), (_, ranking) = talk(plain, conversation)
    assert [choice["text"] for choice in completion["choices"]] == ["a b", "c"]
    vectors = [item["embedding"] for item in embedding["data"]]
    assert vectors[0] == vectors[2] != vectors[1]
    assert sum(value * value for value in vectors[0]) == pytest.approx(1)
    assert response["output"][0]["content"][0]["text"] == "a b"
    assert response["status"] == "incomplete"
    assert [(one["index"], one["object"], one["score"]) for one in score["data"]] == [(0, "score", 0), (1, "score", 1)]
    assert score["usage"]["prompt_tokens"] == 7
    document = {"text": "a", "multi_modal": None}
    assert ranking["results"] == [{"index": 1, "document": document, "relevance_score": 1}]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/chat/completions", chat("a") | {"model": "other"}, 404, "model"),
        ("/v1/chat/completions", chat("a", max_tokens=0), 400, "max_tokens"),
        ("/v1/chat/completions", chat("a", n=10**12), 400, "n"),
        ("/v1/chat/completions", {"model": "model"}, 400, "body.messages"),
        ("/v1/chat/completions", {"model": "model", "messages": ["a"]}, 400, "body.messages"),
        ("/v1/completions", {"model": "model"}, 400, "body.prompt"),
        ("/v1/embeddings", {"model": "model", "input": []}, 400, "body.input"),
        ("/v1/score", {"model": "model", "queries": "a"}, 400, "body.queries"),
        ("/v1/score", {"model": "model", "queries": ["a", "b"], "documents": "c"}, 400, None),
        ("/v1/rerank", {"model": "model", "query": "a", "documents": []}, 400, "documents"),
        ("/v1/embeddings", b"[1]", 400, "body"),
        ("/v1/embeddings", b"{", 400, "body"),
    ],
)
def test_bad_requests_get_an_error_in_vllms_shape(
    plain: Path, path: str, body: Any, status: int, param: str | None
) -> None:
    got, answer = talk(plain, lambda session: post(session, path, body))
    assert got == status
    assert (answer["error"]["param"], answer["error"]["code"]) == (param, status)
    assert answer["error"]["message"]


def test_the_key_guards_v1_only(plain: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> list[int]:
        found = []
        for path in ("/v1/models", "/health", "/stats", "/nothing"):
            async with session.get(path) as response:
                found.append(response.status)
        return [*found, (await ask(session, "a"))[0]]

    assert talk(plain, conversation, key="wrong") == [401, 200, 200, 404, 401]
    assert talk(plain, conversation) == [200, 200, 200, 404, 200]


def test_directives_that_shape_the_answer(plain: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        assert (await ask(session, "a [[status 503]]"))[0] == 503
        status, answer = await ask(session, "a [[no-such-thing]]")
        assert (status, "[[no-such-thing]]" in answer["error"]["message"]) == (400, True)
        _, answer = await ask(session, "a [[bytes 100000]]")
        assert len(answer["choices"][0]["message"]["content"]) == 100_000
        async with session.post("/v1/chat/completions", json=chat("[[retry-after 7]]")) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "7")
        async with session.post("/v1/chat/completions", json=chat("[[garbage]]")) as response:
            assert response.status == 200
            with pytest.raises(ValueError, match=r"JSON|Expecting|Unterminated"):
                await response.json()
        with pytest.raises(aiohttp.ClientError):
            await ask(session, "[[drop]]")
        began = time.monotonic()
        await ask(session, "[[delay-ms 200]]")
        assert time.monotonic() - began >= 0.2

    talk(plain, conversation)


def test_times_are_counted_in_a_file(plain: Path, tmp_path: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> list[int]:
        return [(await ask(session, f"[[status-times 503 2 {tmp_path / 'count'}]]"))[0] for _ in range(4)]

    assert talk(plain, conversation) == [503, 503, 200, 200]


def test_crash_ends_the_process_also_after_a_restart(tmp_path: Path) -> None:
    text = f"[[crash-times 2 {tmp_path / 'count'}]]"
    for _ in range(2):
        with engine(tmp_path) as process:
            with pytest.raises(aiohttp.ClientError):
                talk(tmp_path, lambda session: ask(session, text))
            assert process.wait(5) == 134
    with engine(tmp_path):
        assert talk(tmp_path, lambda session: ask(session, text))[0] == 200


def test_crash_after_n_answers(tmp_path: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> int:
        for number in range(10):
            try:
                await ask(session, "a")
            except aiohttp.ClientError:
                return number
        return 10

    with engine(tmp_path, "--crash-after", "3") as process:
        assert talk(tmp_path, conversation) == 3
        assert process.wait(5) == 134


def test_only_so_many_run_at_once_and_the_others_wait(tmp_path: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        asked = [asyncio.create_task(ask(session, f"number {number}")) for number in range(12)]
        await asyncio.sleep(0.1)
        seen = await stats(session)
        assert (seen["running"], seen["queued"]) == (4, 8)
        began = time.monotonic()
        answers = await asyncio.gather(*asked)
        assert time.monotonic() - began >= 0.4  # three rounds of 0.2 s, the first of them well under way
        assert [answer["choices"][0]["message"]["content"] for _, answer in answers] == [
            f"number {number}" for number in range(12)
        ]

    with engine(tmp_path, "--max-num-seqs", "4", "--latency-ms", "200"):
        talk(tmp_path, conversation)


async def figures(session: aiohttp.ClientSession) -> dict[str, float]:
    """The engine's figures of requests, by their names without vLLM's prefix."""
    async with session.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        families = text_string_to_metric_families(await response.text())
    samples = [sample for family in families for sample in family.samples]
    assert all(sample.labels == {"engine": "0", "model_name": "model"} for sample in samples)
    return {sample.name.removeprefix("vllm:"): sample.value for sample in samples}


def test_its_metrics_are_vllms(tmp_path: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        assert set((await figures(session)).values()) == {0}
        asked = [asyncio.create_task(ask(session, "[[hang]] a b c")) for _ in range(6)]
        await asyncio.sleep(0.1)
        seen = await figures(session)
        assert (seen["num_requests_running"], seen["num_requests_waiting"]) == (4, 2)
        assert (seen["kv_cache_usage_perc"], seen["num_preemptions_total"]) == (0.25, 0)
        for each in asked:
            each.cancel()
        await ask(session, "a b c")
        assert (await figures(session))["generation_tokens_total"] == 3

    with engine(tmp_path, "--max-num-seqs", "4", "--kv-tokens", "64", "--token-ms", "1"):
        talk(tmp_path, conversation)
    with engine(tmp_path, "--disable-log-stats"):
        assert talk(tmp_path, figures) == {}


def test_what_does_not_fit_into_the_cache_goes_back_into_the_queue(tmp_path: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> list[int]:
        asked = [asyncio.create_task(ask(session, f"[[words 50]] {number}")) for number in range(4)]
        await asyncio.sleep(0.15)
        seen = await figures(session)
        assert seen["num_preemptions_total"] >= 1 and seen["num_requests_waiting"] >= 1
        assert seen["kv_cache_usage_perc"] <= 1.3
        answers = await asyncio.gather(*asked)
        assert (await figures(session))["num_preemptions_total"] < 20, "what was sent back waits for room"
        return [answer["usage"]["completion_tokens"] for _, answer in answers]

    with engine(tmp_path, "--kv-tokens", "100", "--token-ms", "4"):
        assert talk(tmp_path, conversation) == [50] * 4


def test_as_many_adapters_run_at_once_as_it_has_places_for(tmp_path: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        for name in ("first", "second"):
            adapter_folder(tmp_path / name, rank=8)
            given = {"lora_name": name, "lora_path": str(tmp_path / name)}
            async with session.post("/v1/load_lora_adapter", json=given) as response:
                assert response.status == 200
        given = {"lora_name": "large", "lora_path": str(adapter_folder(tmp_path / "large", rank=32))}
        status, answer = await post(session, "/v1/load_lora_adapter", given)
        assert (status, answer["error"]["message"]) == (500, "LoRA rank 32 is greater than max_lora_rank 16.")
        asked = [asyncio.create_task(ask(session, "[[hang]]", model="first")) for _ in range(2)]
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(ask(session, "b", model="second"))
        assert (await ask(session, "c"))[1]["model"] == "model", "the base does not wait behind an adapter"
        assert not waiting.done()
        for each in asked:
            each.cancel()
        assert (await waiting)[0] == 200

    with engine(tmp_path, "--enable-lora", "--latency-ms", "10"):
        talk(tmp_path, conversation)


def test_a_client_that_leaves_makes_room(tmp_path: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        hanging = asyncio.create_task(ask(session, "[[hang]]"))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(ask(session, "given up while it waits"))
        others = [asyncio.create_task(ask(session, "a")) for _ in range(3000)]
        await asyncio.sleep(0.5)
        waiting.cancel()
        await asyncio.sleep(0.1)
        assert (await stats(session))["aborted"] == 1
        hanging.cancel()
        assert {status for status, _ in await asyncio.gather(*others)} == {200}
        seen = await stats(session)
        assert seen == {"received": 3002, "queued": 0, "running": 0, "answered": 3000, "aborted": 2}

    with engine(tmp_path, "--max-num-seqs", "1"):
        talk(tmp_path, conversation)


def test_the_journal_has_a_line_for_each_request(tmp_path: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        for text in ("a", "b\nc", "a"):
            await ask(session, text)
        await ask(session, "refused", n=0)

    journal = tmp_path / "journal"
    with engine(tmp_path, "--journal", str(journal)):
        talk(tmp_path, conversation)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [line["text"] for line in lines] == ["a", "b\nc", "a", "refused"]
    assert lines[0]["body"] == lines[2]["body"] != lines[1]["body"]


@pytest.mark.parametrize(
    ("task", "found"), [("chat", [200, 404]), ("embedding", [404, 200]), ("completion", [400, 404])]
)
def test_a_task_has_its_routes(tmp_path: Path, task: str, found: list[int]) -> None:
    async def conversation(session: aiohttp.ClientSession) -> list[int]:
        chatted, _ = await ask(session, "a")
        embedded, _ = await post(session, "/v1/embeddings", {"model": "model", "input": "a"})
        return [chatted, embedded]

    with engine(tmp_path, "--task", task):
        assert talk(tmp_path, conversation) == found


def test_sigterm_ends_it_while_it_answers(tmp_path: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        hanging = asyncio.create_task(ask(session, "[[hang]]"))
        await asyncio.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(hanging, 5)

    with engine(tmp_path) as process:
        talk(tmp_path, conversation)
        assert process.wait(5) == 0


def test_loading_takes_its_time_and_can_be_ended(tmp_path: Path) -> None:
    with engine(tmp_path, "--start-seconds", "60", wait=False) as process:
        assert process.stdout
        assert "Initializing" in process.stdout.readline()
        process.terminate()
        assert process.wait(5) == 0


def test_a_start_that_fails_ends_in_its_reason(tmp_path: Path) -> None:
    with engine(tmp_path, "--fail-start", "ValueError: too little memory", wait=False) as process:
        said = process.communicate(timeout=10)[0]
        assert process.returncode == 1
        assert "Traceback (most recent call last):" in said
        assert said.endswith("\nValueError: too little memory\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--fits-context", "4096"), "max seq len (8192), (0.50 GiB KV cache is needed"),
        (("--fits-share", "0.5"), "Free memory on device cuda:0 (41.60/80.00 GiB) on startup is less than desired"),
        (("--fits-without", "/"), "is less than desired GPU memory utilization (0.92, 73.60 GiB)"),
        (("--fits-share", "0.5", "--no-numbers"), "torch.OutOfMemoryError: CUDA out of memory."),
    ],
)
def test_a_start_that_finds_too_little_memory(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    with engine(tmp_path, *options, wait=False) as process:
        assert said in process.communicate(timeout=10)[0]
        assert process.returncode == 1


def test_a_start_that_finds_enough_memory(tmp_path: Path) -> None:
    fitting = ("--fits-context", "4096", "--max-model-len", "4096", "--fits-share", "0.5")
    with engine(tmp_path, *fitting, "--gpu-memory-utilization", "0.5", "--fits-without", "/no/such"):
        assert talk(tmp_path, lambda session: ask(session, "a"))[0] == 200


def test_it_sleeps_and_wakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        async def asleep() -> bool:
            async with session.get("/is_sleeping") as response:
                return (await response.json())["is_sleeping"]

        assert not await asleep()
        assert await post(session, "/sleep?level=1", {}) == (200, {"status": "sleeping", "level": 1})
        assert await asleep()
        assert (await ask(session, "a"))[0] == 503
        assert await post(session, "/wake_up", {}) == (200, {"status": "awake", "tags": None})
        status, answer = await ask(session, "abc")
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "cba"), "nonsense"

    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    with engine(tmp_path, "--enable-sleep-mode", "--after-sleep", "nonsense"):
        talk(tmp_path, conversation)


def test_without_developer_mode_it_has_no_sleep(plain: Path) -> None:
    assert talk(plain, lambda session: post(session, "/sleep", {}))[0] == 404


def test_bytes_that_are_no_http_do_no_harm(plain: Path) -> None:
    async def conversation(session: aiohttp.ClientSession) -> None:
        for junk in (b"\0\1\2\n\n", b"GET\r\n\r\n", b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):
            reader, writer = await asyncio.open_unix_connection(str(plain / "socket"))
            writer.write(junk)
            await reader.read()
            writer.close()
        assert (await ask(session, "still here"))[0] == 200

    talk(plain, conversation)
