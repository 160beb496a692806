"""Objects for the examples of `reference`, which tell one story: a file of ten requests becomes a batch."""

from typing import Any

INPUT = "file-01a2213f5e807b2c9d4e6f8a0b1c2d3e"
OUTPUT = "file-01a221402b10a1b2c3d4e5f60718293a"
JOINED = "file-01a2213f51029c8b7a6958473625140f"
BATCH_ID = "batch_01a2213f6a443c5d7e9f1a2b4c6d8e0f"
SUBMITTED = "batch_01a2213f88d07a8b9c0d1e2f3a4b5c6d"
AGAIN = "batch_01a221403c9ef0e1d2c3b4a596877869"
UPLOAD_ID = "upload_01a2213f4d210f1e2d3c4b5a69788796"
PART_ID = "part_01a2213f4f3311223344556677889900"
MODEL = "smollm2-135m"
CHAT = "/v1/chat/completions"

FILE: dict[str, Any] = {
    "id": INPUT,
    "object": "file",
    "bytes": 2230,
    "created_at": 1795852812,
    "expires_at": None,
    "filename": "demo_batch_10.jsonl",
    "purpose": "batch",
    "status": "processed",
    "status_details": None,
}
FIRST_LINE = (
    '{"custom_id": "capital", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "smollm2-135m", '
    '"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 60, '
    '"temperature": 0}}\n'
)
UPLOAD: dict[str, Any] = {
    "id": UPLOAD_ID,
    "object": "upload",
    "bytes": 2230,
    "created_at": 1795852806,
    "expires_at": 1795856406,
    "filename": "demo_batch_10.jsonl",
    "purpose": "batch",
    "status": "pending",
    "file": None,
}
WAITING: dict[str, Any] = {
    "id": BATCH_ID,
    "object": "batch",
    "endpoint": CHAT,
    "errors": None,
    "input_file_id": INPUT,
    "completion_window": "24h",
    "status": "validating",
    "output_file_id": None,
    "error_file_id": None,
    "created_at": 1795852815,
    "in_progress_at": None,
    "expires_at": 1795939215,
    "finalizing_at": None,
    "completed_at": None,
    "failed_at": None,
    "expired_at": None,
    "cancelling_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 0, "completed": 0, "failed": 0},
    "metadata": {"team": "support"},
    "model": None,
    "usage": None,
    "name": "demo_batch_10",
    "not_run": 0,
    "priority": 0,
    "progress": {
        "phase": "validating",
        "percent": 0.0,
        "tokens_per_second": None,
        "requests_per_second": None,
        "eta_seconds": None,
    },
    "queue_position": 1,
    "estimated_start_at": 1795852816,
    "estimated_completion_at": 1795852822,
    "estimate": {
        "seconds": 6,
        "starts_in_seconds": 1,
        "requests": 10,
        "model": MODEL,
        "measurements": 20,
        "reason": None,
    },
    "attempts": 0,
    "resolved_models": [],
}
DONE: dict[str, Any] = WAITING | {
    "status": "completed",
    "output_file_id": OUTPUT,
    "in_progress_at": 1795852816,
    "finalizing_at": 1795852821,
    "completed_at": 1795852821,
    "request_counts": {"total": 10, "completed": 10, "failed": 0},
    "model": MODEL,
    "usage": {
        "input_tokens": 358,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 412,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 770,
    },
    "progress": {
        "phase": None,
        "percent": 100.0,
        "tokens_per_second": 82.4,
        "requests_per_second": 2.0,
        "eta_seconds": None,
    },
    "queue_position": None,
    "estimated_start_at": 1795852816,
    "estimated_completion_at": None,
    "estimate": None,
    "attempts": 1,
    "resolved_models": [{"asked": MODEL, "model": MODEL, "revision": None}],
}
RUNNING: dict[str, Any] = DONE | {
    "status": "in_progress",
    "output_file_id": None,
    "finalizing_at": None,
    "completed_at": None,
    "request_counts": {"total": 10, "completed": 4, "failed": 0},
    "usage": None,
    "priority": 10,
    "progress": {
        "phase": "running",
        "percent": 40.0,
        "tokens_per_second": 80.1,
        "requests_per_second": 1.9,
        "eta_seconds": 3,
    },
    "queue_position": 0,
    "estimated_completion_at": 1795852822,
    "estimate": WAITING["estimate"] | {"seconds": 3, "starts_in_seconds": 0, "requests": 6},
}
CANCELLING: dict[str, Any] = RUNNING | {
    "status": "cancelling",
    "cancelling_at": 1795852818,
    "progress": RUNNING["progress"] | {"phase": "cancelling", "eta_seconds": None},
    "queue_position": None,
    "estimated_completion_at": None,
    "estimate": None,
}

OUTPUT_LINE = (
    '{"id": "batch_req_17c64af1bcb51ad7a788a9dd", "custom_id": "capital", "response": {"status_code": 200, '
    '"request_id": "req_17c64af1bcb51ad7a788a9dd", "body": {"id": "chatcmpl-8f0c", "object": "chat.completion", '
    '"created": 1795852817, "model": "smollm2-135m", "choices": [{"index": 0, "message": {"role": "assistant", '
    '"content": "The capital of France is Paris.", "refusal": null}, "logprobs": null, "finish_reason": "stop"}], '
    '"usage": {"prompt_tokens": 37, "total_tokens": 45, "completion_tokens": 8}}}, "error": null}\n'
)
ERROR_LINE = (
    '{"id": "batch_req_18d75b02cdc62be8b899bae0", "custom_id": "ocean", "response": null, "error": '
    '{"code": "batch_cancelled", "message": "This request was not executed because the batch was cancelled."}}\n'
)
CSV = (
    "custom_id,prompt,answer,status,error,status_code,model,finish_reason,input_tokens,output_tokens\n"
    "capital,What is the capital of France?,The capital of France is Paris.,completed,,200,smollm2-135m,stop,37,8\n"
)
QUEUE: dict[str, Any] = {
    "object": "queue",
    "workers": [
        {
            "cluster": "gpu",
            "hostname": None,
            "pid": 4312,
            "state": "running",
            "activity": f"Running a batch on {MODEL} ({BATCH_ID})",
            "work_kind": "batch",
            "work_id": BATCH_ID,
            "work_ids": [BATCH_ID],
            "alive": True,
            "heartbeat_at": 1795852818,
            "model": MODEL,
            "engine_pid": 4377,
            "engine_url": None,
            "lanes": [],
        }
    ],
    "gpu": [],
    "loaded_model": MODEL,
    "running": [
        {
            "id": BATCH_ID,
            "name": "demo_batch_10",
            "status": "in_progress",
            "priority": 10,
            "models": [MODEL],
            "total": 10,
            "completed": 4,
            "failed": 0,
            "progress": RUNNING["progress"],
            "position": 0,
            "in_flight": 6,
            "share_percent": 100.0,
            "estimated_start_at": 1795852816,
            "estimated_completion_at": 1795852822,
        }
    ],
    "waiting": [],
    "waiting_total": 0,
    "validating_total": 0,
    "paused": None,
}


def listed(*objects: dict[str, Any]) -> dict[str, Any]:
    """One page of a list."""
    return {
        "object": "list",
        "data": list(objects),
        "first_id": objects[0]["id"],
        "last_id": objects[-1]["id"],
        "has_more": False,
    }
