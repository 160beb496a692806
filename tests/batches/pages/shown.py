"""Batches with requests in every state, and people who look at them; for the tests of the pages of requests."""

import json
from pathlib import Path

from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from batches.files import blobs, store
from batches.models import Batch, BatchRequest, BatchStatus, RequestState
from vbs.accounts.models import Project

HTMX = {"HX-Request": "true"}
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202egnp.exe"


def member(*projects):
    user = User.objects.create_user(f"user{User.objects.count()}")
    for project in projects:
        project.members.add(user)
    client = Client()
    client.force_login(user)
    return client


def other():
    return Project.objects.create(name=f"other {Project.objects.count()}")


def text(response):
    return response.content.decode()


def chat(content, **more):
    message = {"role": "assistant", "content": content} | more
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "model": "m", "choices": [choice], "usage": {"prompt_tokens": 5, "total_tokens": 9}}


def request(custom_id, **body):
    body = {"model": "m", "messages": [{"role": "user", "content": f"question of {custom_id}"}]} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def made(project, requests, **fields):
    """A batch of these requests; each is pending until `answer`."""
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in requests]
    with blobs.scratch() as scratch:
        scratch.write(b"\n".join(lines) + b"\n")
        scratch.flush()
        file = store.store(project, Path(scratch.name), "in.jsonl", "batch", None)
    now = timezone.now()
    batch = Batch.objects.create(
        **{
            "project": project, "input_file": file, "input_file_id_given": file.pk, "validated_at": now,
            "endpoint": "/v1/chat/completions", "completion_window": "24h", "expires_at": now, "total": len(lines),
            "model_names": ["m"], "status": BatchStatus.IN_PROGRESS,
        } | fields
    )  # fmt: skip
    offset, rows = 0, []
    for number, (line, one) in enumerate(zip(lines, requests, strict=True), 1):
        custom_id = one["custom_id"] if isinstance(one, dict) else f"id {number}"
        rows.append(
            BatchRequest(
                batch=batch, line=number, offset=offset, length=len(line), custom_id=custom_id, model_index=0,
                prefix="0" * 32,
            )
        )  # fmt: skip
        offset += len(line) + 1
    BatchRequest.objects.bulk_create(rows)
    return batch


def answer(batch, line, body=None, state=RequestState.COMPLETED, **fields):
    """As the runner's commit would."""
    response = body if body is None or isinstance(body, str) else json.dumps(body)
    done = {"status_code": 200, "input_tokens": 5, "output_tokens": 4, "finished_at": timezone.now()}
    batch.requests.filter(line=line).update(state=state, response=response, **(done | fields))
    good = state == RequestState.COMPLETED
    batch.completed, batch.failed = batch.completed + good, batch.failed + (not good)
    batch.save()
