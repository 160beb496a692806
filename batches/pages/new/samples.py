"""Samples of what a batch is made of: a table, a batch file and a table of prompts, for a model that is ready here."""

import csv
import io
from typing import Any

import orjson

from batches.intake.records import record
from batches.intake.repair import endpoint_of
from batches.pages.new.page import ready_names
from models_registry.models import Task
from vbs.places import BASE_DIR

TABLE = BASE_DIR / "examples" / "reviews.csv"
TEMPLATE = "Is this review positive or negative? Answer with one word.\n\n{review}"
QUESTIONS = ("Why is the sky blue?", "Name three rivers of Europe.", "What is a prime number?")
ANSWERS = ("Air scatters blue light most.", "The Danube, the Rhine and the Loire.")


def sample_model(chosen: str = "") -> tuple[str, str]:
    """A name and its task for samples: the chosen model, else one for chat, else any ready one."""
    names = ready_names()
    if chosen in names:
        return chosen, names[chosen]
    for name, task in names.items():
        if task == Task.CHAT:
            return name, task
    return next(iter(names.items()), ("the-name-of-a-model", Task.CHAT.value))


def sample_jsonl(model: str, task: str) -> bytes:
    endpoint = endpoint_of(task)

    def body(text: str) -> dict[str, Any]:
        if endpoint == "/v1/embeddings":
            return {"model": model, "input": text}
        if endpoint == "/v1/score":
            return {"model": model, "queries": text, "documents": list(ANSWERS)}
        content: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
        return {"model": model, **({"prompt": text} if endpoint == "/v1/completions" else content), "max_tokens": 100}

    lines = (
        {"custom_id": f"request-{number}", "method": "POST", "url": endpoint, "body": body(text)}
        for number, text in enumerate(QUESTIONS, 1)
    )
    return b"".join(map(record, lines))


def sample_csv(model: str, task: str) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    answers = orjson.dumps(ANSWERS).decode()
    columns, more = {
        Task.EMBEDDING.value: (("input",), ()),
        Task.SCORE.value: (("queries", "documents"), (answers,)),
    }.get(task, (("prompt", "max_tokens"), ("100",)))
    writer.writerow(["custom_id", "model", *columns])
    for number, text in enumerate(QUESTIONS, 1):
        writer.writerow([f"request-{number}", model, text, *more])
    return out.getvalue().encode()


def of(way: str, chosen: str = "") -> tuple[str, bytes]:
    """The sample for a way in: its name and its bytes. chosen: the model, if one is chosen."""
    if way == "table":
        return TABLE.name, TABLE.read_bytes()
    return "sample.jsonl", sample_jsonl(*sample_model(chosen))
