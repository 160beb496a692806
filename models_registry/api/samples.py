"""Objects for the examples of `reference`: the demo models, a model from the hub, and what is done with them."""

from typing import Any

MODEL = "smollm2-135m"
VECTORS = "all-minilm-l6-v2"
FETCHED = "qwen2.5-0.5b"
HUB_ID = "Qwen/Qwen2.5-0.5B-Instruct"
ADAPTER = "support-lora"
ALIAS = "gpt-4o-mini"
OPERATION_ID = "op_01a221400e11223344556677889900aa"
TUNING_ID = "op_01a221401d338e0f1a2b3c4d5e6f7081"
FOLDER = "/srv/models/qwen2.5-0.5b"
COMMIT = "7ae557604adf67be50417f59c2c2f167def9a775"

ABOUT_MODEL: dict[str, Any] = {
    "id": MODEL,
    "object": "model",
    "created": 1795852700,
    "owned_by": "vbs",
    "state": "ready",
    "task": "chat",
    "context_length": 2048,
    "size_bytes": 271_000_000,
    "loaded": True,
    "interactive": {"available": True, "reason": None},
    "aliases": [ALIAS],
    "parent": None,
    "reason": None,
    "license": "Apache-2.0",
    "revision": None,
    "quantization": None,
    "trust_remote_code": False,
    "server": None,
    "checked_at": 1795852790,
    "tokens_per_second": 412.5,
    "input_tokens_per_second": 391.2,
    "requests_per_second": 10.3,
    "load_seconds": 9.8,
    "measurements": 20,
    "measured_at": 1795852790,
}
REGISTERED: dict[str, Any] = ABOUT_MODEL | {
    "kind": "vllm",
    "source": "/srv/vbs/models/smollm2-135m",
    "remote_name": None,
    "pool": [],
    "hub_id": None,
    "hub_revision": None,
    "hub_file": None,
    "hub_token": None,
    "engine_args": {"max-model-len": 2048},
    "notes": None,
    "input_price": None,
    "output_price": None,
    "currency": "USD",
    "allow_pickle": False,
    "own_code": False,
    "has_key": False,
    "lora_rank": None,
    "adapters": [],
    "download": None,
}
DRAFT: dict[str, Any] = REGISTERED | {
    "id": FETCHED,
    "created": 1795852900,
    "state": "draft",
    "context_length": None,
    "size_bytes": None,
    "loaded": False,
    "interactive": {"available": False, "reason": f"the model {FETCHED} is not fetched yet"},
    "aliases": [],
    "license": None,
    "tokens_per_second": None,
    "input_tokens_per_second": None,
    "requests_per_second": None,
    "load_seconds": None,
    "measurements": 0,
    "measured_at": None,
    "source": None,
    "hub_id": HUB_ID,
    "engine_args": {"max-model-len": 4096},
}
DOWNLOAD: dict[str, Any] = {
    "object": "registry.download",
    "model": FETCHED,
    "state": "queued",
    "reason": None,
    "doing": None,
    "commit": COMMIT,
    "bytes_total": 988_097_824,
    "bytes_done": 0,
    "bytes_per_second": None,
    "attempts": 0,
    "created_at": 1795852910,
    "started_at": None,
    "finished_at": None,
}
STARTED = DOWNLOAD | {"bytes_done": 310_378_496, "attempts": 1, "started_at": 1795852911}
PLAN: dict[str, Any] = {
    "object": "registry.plan",
    "model": FETCHED,
    "commit": COMMIT,
    "files": [{"path": "config.json", "size": 659}, {"path": "model.safetensors", "size": 988_097_824}],
    "bytes": 995_196_512,
    "present": 0,
    "converted": 0,
    "need": 995_196_512,
    "promised": 0,
    "disk_free": 412_316_860_416,
    "free_after": 411_321_663_904,
    "fits": True,
    "license": "apache-2.0",
    "gated": False,
    "made_for": None,
}
NEED: dict[str, Any] = {
    "weights": 988_097_824,
    "cache": 50_331_648,
    "lora": 0,
    "process": 1_073_741_824,
    "working": 536_870_912,
    "correction": 0,
    "total": 2_649_042_208,
}
FIT: dict[str, Any] = {
    "object": "registry.fit",
    "model": FETCHED,
    "verdict": "fits",
    "text": "It fits: 2.5 GiB are needed, and 22.4 GiB are available.",
    "context": 4096,
    "sequences": 1,
    "change": {},
    "need": NEED,
    "asked": NEED,
    "resident": None,
    "room_bytes": 24_051_816_857,
    "room_kind": "cpu",
    "room_cache": 4_294_967_296,
    "room_host": 0,
    "loads": 0,
}
MEASUREMENT: dict[str, Any] = {
    "id": "1204",
    "object": "registry.measurement",
    "model": MODEL,
    "kind": "benchmark",
    "at": 1795852790,
    "machine": "AMD EPYC 7B13, 2 cores",
    "versions": {"vllm": "0.32.0", "torch": "2.13.0"},
    "options": {"max-model-len": 2048},
    "batch_id": None,
    "endpoint": None,
    "requests": 100,
    "failed": 0,
    "input_tokens": 6400,
    "output_tokens": 6400,
    "unlimited": 0,
    "unlimited_tokens": 0,
    "seconds": 15.5,
    "share": 1.0,
    "at_once": 100,
    "latency_p50": 13.9,
    "latency_p99": 15.2,
    "latency_mean": 13.6,
    "load_seconds": None,
    "first_token_seconds": None,
    "memory_bytes": None,
    "predicted_bytes": None,
}
ALIASED: dict[str, Any] = {"id": ALIAS, "object": "registry.alias", "model": MODEL, "changed_at": 1795852720}
LEFTOVER: dict[str, Any] = {
    "id": "demo/minilm",
    "object": "registry.leftover",
    "folder": "/srv/vbs/cache/demo/minilm",
    "what": "fetched to make a demo model; it would be fetched again",
    "bytes": 91_568_423,
    "files": 14,
}


def operation(kind: str, options: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An operation that is asked for; `more` has what is different later."""
    return {
        "id": OPERATION_ID,
        "object": "registry.operation",
        "kind": kind,
        "model": MODEL,
        "state": "queued",
        "priority": 0,
        "options": options,
        "result": None,
        "error": None,
        "log": "",
        "doing": None,
        "percent": None,
        "asked_by": "default (mine)",
        "attempts": 0,
        "created_at": 1795852740,
        "started_at": None,
        "finished_at": None,
    } | more


LOAD = operation("load", {"keep_seconds": 0})
LOADED = LOAD | {
    "state": "succeeded",
    "result": {"seconds": 9.8, "memory_bytes": 1_288_490_188, "less": [], "woken": False},
    "attempts": 1,
    "started_at": 1795852741,
    "finished_at": 1795852751,
}
TUNING = operation(
    "tune",
    {
        "file": "",
        "minutes": 20,
        "requests": 200,
        "max_tokens": 64,
        "prompt_tokens": 64,
        "seed": 0,
        "keep": False,
    },
    id=TUNING_ID,
)
TUNED = TUNING | {
    "state": "succeeded",
    "result": {
        "own": {"max-model-len": 2048},
        "options": {},
        "candidates": [],
        "trying": None,
        "best": {"max-num-seqs": 64},
        "gain": 1.18,
        "kept": True,
        "sample": "200 made-up requests",
        "input_tokens": 64,
        "ended": "every candidate was tried",
    },
    "attempts": 1,
    "started_at": 1795853000,
    "finished_at": 1795853900,
}


def engine_answer(prefix: str, kind: str, model: str, **more: Any) -> dict[str, Any]:
    return {"id": f"{prefix}-8f0c4b1e", "object": kind, "created": 1795852817, "model": model} | more


CHAT = engine_answer(
    "chatcmpl",
    "chat.completion",
    MODEL,
    choices=[
        {
            "index": 0,
            "message": {"role": "assistant", "content": "The capital of France is Paris.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    usage={"prompt_tokens": 37, "total_tokens": 45, "completion_tokens": 8},
)
COMPLETION = engine_answer(
    "cmpl",
    "text_completion",
    MODEL,
    choices=[{"index": 0, "text": " Paris.", "logprobs": None, "finish_reason": "stop"}],
    usage={"prompt_tokens": 5, "total_tokens": 7, "completion_tokens": 2},
)
RESPONSE: dict[str, Any] = {
    "id": "resp-8f0c4b1e",
    "object": "response",
    "created_at": 1795852817,
    "model": MODEL,
    "status": "completed",
    "incomplete_details": None,
    "error": None,
    "instructions": None,
    "metadata": None,
    "output": [
        {
            "id": "msg-8f0c4b1f",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "The capital of France is Paris.", "annotations": [], "logprobs": None}
            ],
        }
    ],
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "none",
    "tools": [],
    "top_p": 1.0,
    "max_output_tokens": 60,
    "usage": {
        "input_tokens": 37,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 45,
    },
}
READ_USAGE = {"prompt_tokens": 10, "total_tokens": 10, "completion_tokens": 0}
EMBEDDING = engine_answer(
    "embd",
    "list",
    VECTORS,
    data=[{"index": 0, "object": "embedding", "embedding": [0.0123, -0.0456, 0.0789]}],
    usage=READ_USAGE,
)
SCORE = engine_answer("score", "list", VECTORS, data=[{"index": 0, "object": "score", "score": 0.83}], usage=READ_USAGE)
RANKING: dict[str, Any] = {
    "id": "score-8f0c4b1e",
    "model": VECTORS,
    "usage": {"prompt_tokens": 10, "total_tokens": 10},
    "results": [
        {"index": 1, "document": {"text": "Bees collect nectar.", "multi_modal": None}, "relevance_score": 0.83},
        {"index": 0, "document": {"text": "Paris is in France.", "multi_modal": None}, "relevance_score": 0.04},
    ],
}
