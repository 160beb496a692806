"""Commands and code to copy for a task, with this server's address in them."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vbs.places import INSTALLED, PROGRAM

MODELS: list[Callable[[], Iterable[str]]] = []  # names of models that can be asked; the registry adds its own
PLAIN = re.compile(r"[A-Za-z0-9][\w./:-]{0,99}", re.ASCII)  # needs no quoting, in a shell and in JSON
NONE_YET = "your-model"


@dataclass(frozen=True)
class Recipe:
    """id: of its code on the page."""

    id: str
    title: str
    words: str
    code: str


def model() -> str:
    """The name of a ready model, else a placeholder."""
    return next((name for names in MODELS for name in names() if PLAIN.fullmatch(name)), "")


def recipes(server: str, model: str, window: str = "24h") -> tuple[Recipe, ...]:
    """server: scheme and host, without a slash at the end. Each recipe continues the one before."""
    model = model or NONE_YET
    typed = PROGRAM if INSTALLED else f".venv/bin/python {PROGRAM}"
    auth = '-H "Authorization: Bearer $KEY"'
    return (
        Recipe(
            "key",
            "A key",
            "A key belongs to a project. Create one under System, or in a shell on the server; then export it.",
            f"{typed} create_api_key --project default --name mine\nexport KEY=sk-vbs-…",
        ),
        Recipe(
            "models",
            "Models",
            "Their names, and how fast each was here.",
            f"curl -s {server}/v1/models {auth}",
        ),
        Recipe(
            "file",
            "A batch file",
            "A request on each line, each with an id of your own by which you find its answer.",
            "cat > batch.jsonl <<'EOF'\n"
            + "".join(_line(model, number, prompt) for number, prompt in enumerate(PROMPTS, 1))
            + "EOF",
        ),
        Recipe(
            "once",
            "In one call",
            "Upload the file and create the batch. The lines may leave out the model when it is given here.",
            f"curl -s {server}/v1/batches {auth} \\\n     -F file=@batch.jsonl -F model={model}",
        ),
        Recipe(
            "table",
            "A table instead of a file",
            "Each row becomes one request; a column in braces stands for its value.",
            f"cat > reviews.csv <<'EOF'\n{TABLE}EOF\n"
            f"curl -s {server}/v1/batches {auth} \\\n"
            f"     -F file=@reviews.csv -F model={model} -F 'prompt=Is this review positive? {{review}}'",
        ),
        Recipe(
            "client",
            "With the official client",
            "Only the address differs from OpenAI's. To install it: pip install openai.",
            "import os, time\n"
            "from openai import OpenAI\n\n"
            f'client = OpenAI(base_url="{server}/v1", api_key=os.environ["KEY"])\n'
            'file = client.files.create(file=open("batch.jsonl", "rb"), purpose="batch")\n'
            "batch = client.batches.create(\n"
            f'    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="{window}"\n'
            ")\n"
            'while batch.status not in ("completed", "failed", "expired", "cancelled"):\n'
            "    time.sleep(2)\n"
            "    batch = client.batches.retrieve(batch.id)\n"
            "    print(batch.status, batch.request_counts)\n"
            "if batch.output_file_id:\n"
            "    print(client.files.content(batch.output_file_id).text)",
        ),
        Recipe(
            "files",
            "With curl, step by step",
            "Upload the file, then create a batch of it: put in the id that the first call answers with.",
            f"curl -s {server}/v1/files {auth} -F purpose=batch -F file=@batch.jsonl\n"
            f'curl -s {server}/v1/batches {auth} -H "Content-Type: application/json" \\\n'
            '     -d \'{"input_file_id": "file-…", "endpoint": "/v1/chat/completions", '
            f'"completion_window": "{window}"}}\'',
        ),
        Recipe(
            "results",
            "Progress and answers",
            "The answers are there while it still runs, as lines or as a table; an error has a line of its own.",
            f"curl -s {server}/v1/batches/batch_… {auth}\n"
            f"curl -s {server}/v1/batches/batch_…/results {auth}\n"
            f"curl -s '{server}/v1/batches/batch_…/results?format=csv&join=input' {auth}\n"
            f"curl -s {server}/v1/batches/batch_…/errors {auth}",
        ),
        Recipe(
            "cancel",
            "Cancel, and retry what failed",
            "The answers so far are kept. A retry is a new batch of the requests that failed or were not run.",
            f"curl -s -X POST {server}/v1/batches/batch_…/cancel {auth}\n"
            f"curl -s -X POST {server}/v1/batches/batch_…/retry {auth}",
        ),
        Recipe(
            "shell",
            "From the command line",
            "In the server's folder, or with --url and --key from anywhere.",
            f"{typed} batch submit batch.jsonl --url {server} --key $KEY --wait",
        ),
    )


PROMPTS = ("Why is the sky blue?", "Name three rivers.")
TABLE = "product,review\nkettle,It boils fast and is quiet.\nlamp,The light flickers after an hour.\n"


def _line(model: str, number: int, prompt: str) -> str:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "{prompt}"}}], "max_tokens": 100}}'
    return f'{{"custom_id": "request-{number}", "method": "POST", "url": "/v1/chat/completions", "body": {body}}}\n'
