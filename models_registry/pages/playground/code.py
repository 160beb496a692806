"""A request as something to copy: a line of a batch file, a command for the shell, Python for the official client."""

import json
import pprint
import shlex
from textwrap import indent
from typing import Any

import msgspec

from vbs.openai import raw_json
from vbs.openai.errors import InvalidRequest
from vbs.openai.raw_json import Members

WIDTH = 96
# By endpoint: the client's method, what it takes by name, and how its answer is read. What else a body has goes into
# `extra_body`.
CALLS = {
    "/v1/chat/completions": (
        "chat.completions.create",
        ("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "n",
         "response_format", "tools", "tool_choice", "logprobs", "top_logprobs", "presence_penalty",
         "frequency_penalty", "reasoning_effort"),
        "answer.choices[0].message.content",
    ),
    "/v1/completions": (
        "completions.create",
        ("model", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop", "n", "echo", "logprobs"),
        "answer.choices[0].text",
    ),
    "/v1/embeddings": (
        "embeddings.create", ("model", "input", "dimensions", "encoding_format"), "answer.data[0].embedding",
    ),
    "/v1/responses": (
        "responses.create", ("model", "input", "instructions", "temperature", "top_p", "tools", "text"),
        "answer.output_text",
    ),
}  # fmt: skip


def codes(server: str, endpoint: str, members: Members) -> dict[str, str]:
    """server: scheme and host. Raises InvalidRequest for what cannot be written as Python."""
    body = one_line(members)
    line = {"custom_id": "playground-1", "method": "POST", "url": endpoint}
    try:
        python = _python(server, endpoint, {name: json.loads(bytes(value)) for name, value in members.items()})
    except (ValueError, RecursionError) as error:  # a number with thousands of digits; nesting without an end
        raise InvalidRequest(f"The body cannot be written as Python: {error}", code="invalid_body") from error
    return {
        "line": f'{json.dumps(line)[:-1]}, "body": {body}}}',
        "curl": curl(server, endpoint, body),
        "python": python,
    }


def curl(server: str, endpoint: str, data: str) -> str:
    """data: the body, or `@` and the name of a file with it."""
    return (
        f"curl -s {shlex.quote(server + endpoint)} \\\n"
        '     -H "Authorization: Bearer $KEY" \\\n'
        '     -H "Content-Type: application/json" \\\n'
        f"     -d {shlex.quote(data)}"
    )


def one_line(members: Members) -> str:
    """As JSON. What cannot be seen is written as an escape: it stands in texts only, where that is the same."""
    compact = msgspec.json.format(raw_json.text_of(members), indent=-1).decode()
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in compact)


def _python(server: str, endpoint: str, body: dict[str, Any]) -> str:
    beginning = (
        "import os\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(base_url={_literal(f"{server}/v1")}, api_key=os.environ["KEY"])\n'
    )
    if endpoint not in CALLS:
        path = endpoint.removeprefix("/v1")
        return (
            f"{beginning}answer = client.post(\n    {_literal(path)},\n    cast_to=object,\n"
            f"{_argument('body', body)})\nprint(answer)"
        )
    method, known, read = CALLS[endpoint]
    given = {name: body[name] for name in known if name in body}
    if others := {name: value for name, value in body.items() if name not in known}:
        given["extra_body"] = others
    arguments = "".join(_argument(name, value) for name, value in given.items())
    return f"{beginning}answer = client.{method}(\n{arguments})\nprint({read})"


def _argument(name: str, value: Any) -> str:
    given = _literal(value).replace("\n", "\n" + " " * len(f"{name}="))
    return indent(f"{name}={given},\n", "    ")


def _literal(value: Any) -> str:
    """Python writes what cannot be seen as escapes, so a line never ends within a text."""
    return pprint.pformat(value, width=WIDTH, sort_dicts=False)
