"""Checks every line of an input file: is it a request that can run? Bytes in, requests and errors out, no database.

Memory does not grow with the length of lines or with the file, except for a small entry for each custom_id.
"""

import hashlib
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, TypedDict

import orjson

from batches.files.kinds import BOM, not_utf8
from batches.intake import parameters, values
from batches.intake.constraints import Constraints
from batches.intake.parameters import Serving
from vbs.openai import lengths, raw_json
from vbs.openai.raw_json import NotAnObject

MAX_ERRORS = 1000
MAX_CUSTOM_ID = 512
MAX_IGNORED = 20  # names of parameters

# The fields that the body must have besides the model. vLLM knows the two sides of a score by several names.
REQUIRED: dict[str, tuple[tuple[str, ...], ...]] = {
    "/v1/chat/completions": (("messages",),),
    "/v1/completions": (("prompt",),),
    "/v1/embeddings": (("input",),),
    "/v1/responses": (("input",),),
    "/v1/score": (("queries", "documents"), ("text_1", "text_2"), ("queries", "items"), ("data_1", "data_2")),
    "/v1/rerank": (("query", "documents"),),
}

# The lengths of the beginnings of prompts by which requests are sorted, the coarse one first.
_PREFIX_CUTS = (256, 1024, 4096, 16384)


class LineError(TypedDict):
    code: str
    line: int | None
    message: str
    param: str | None


@dataclass(frozen=True, slots=True)
class GoodLine:
    """A line that can run: where it is in the file, and what the runner needs to know about it."""

    number: int
    offset: int
    length: int
    custom_id: str
    model: str
    prefix: uuid.UUID


@dataclass
class Rules:
    """The rules for one batch.

    refuse_model(name): why this model cannot be used at this endpoint, as (code, message), or None. serving(name): what
    validation needs to know about the model's engine. default_model: for lines that name none.
    """

    endpoint: str
    refuse_model: Callable[[str], tuple[str, str] | None]
    max_requests: int
    max_line_bytes: int
    default_model: str = ""
    serving: Callable[[str], Serving] = lambda name: Serving()


@dataclass
class Remark:
    """A remark about something that is no error: in how many requests it is, on which line first, and what is there."""

    count: int
    line: int
    words: str = ""


@dataclass
class Report:
    """The errors of a file. count: of all errors, also when the list is full.

    ignored: parameters that vLLM does not know; those beyond MAX_IGNORED are counted together under "". unlimited:
    requests whose answers may run to the end of the context. refused: parameters whose values vLLM will refuse, so that
    their requests fail.
    """

    errors: list[LineError] = field(default_factory=list)
    count: int = 0
    ignored: dict[str, Remark] = field(default_factory=dict)
    unlimited: Remark | None = None
    refused: dict[str, Remark] = field(default_factory=dict)

    def remark(
        self, line: int, ignored: Sequence[str], is_unlimited: bool, refused: tuple[str, str] | None = None
    ) -> None:
        for name in ignored:
            key = name if name in self.ignored or len(self.ignored) < MAX_IGNORED else ""
            self.ignored.setdefault(key, Remark(0, line)).count += 1
        if is_unlimited:
            self.unlimited = self.unlimited or Remark(0, line)
            self.unlimited.count += 1
        if refused:
            name, why = refused
            self.refused.setdefault(name, Remark(0, line, why)).count += 1

    def add(self, code: str, line: int | None, message: str, param: str | None = None) -> None:
        self.count += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append({"code": code, "line": line, "message": message, "param": param})

    def all(self) -> list[LineError]:
        more = self.count - len(self.errors)
        if not more:
            return self.errors
        last: LineError = {
            "code": "too_many_errors",
            "line": None,
            "message": f"{more:,} more lines have errors; only the first {MAX_ERRORS:,} errors are listed.",
            "param": None,
        }
        return [*self.errors, last]


class BadLine(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


def read(file: IO[bytes], rules: Rules, report: Report) -> Iterator[GoodLine]:
    """Yields the good lines, in order; errors of the others go to the report. It stops early only past the limit of
    requests."""
    with Constraints() as constraints:
        yield from _read(file, rules, report, constraints)


def _read(file: IO[bytes], rules: Rules, report: Report, constraints: Constraints) -> Iterator[GoodLine]:
    seen: dict[bytes, int] = {}
    models: dict[str, tuple[str, str] | Serving] = {}
    count = 0
    for number, offset, text in lines(file, rules.max_line_bytes):
        if text is not None and not text.strip():
            continue
        count += 1
        if count > rules.max_requests:
            report.add(
                "too_many_requests",
                number,
                f"The file has more than {rules.max_requests:,} requests, which is the limit of one batch.",
            )
            return
        try:
            if text is None:
                limit = rules.max_line_bytes // 2**20
                raise BadLine(
                    "line_too_large", f"This line is longer than {limit} MB, which is the limit of one request."
                )
            custom_id, model, prefix, body = _check(text, number, rules, seen, models, constraints)
        except BadLine as bad:
            report.add(bad.code, number, bad.message, bad.param)
        else:
            endpoint = rules.endpoint
            serving = models[model]
            assert isinstance(serving, Serving)
            refused = None if serving.is_remote else values.wrong(endpoint, body)
            report.remark(number, parameters.unknown(endpoint, body), lengths.is_unlimited(endpoint, body), refused)
            yield GoodLine(number, offset, len(text), custom_id, model, prefix)
    if not count:
        report.add("empty_file", None, "The input file has no requests: every line is blank.")


def lines(file: IO[bytes], limit: int) -> Iterator[tuple[int, int, bytes | None]]:
    """Yields number, offset and text of each line, without its end. The text of a line that is too long is None."""
    number, offset = 0, 0
    if file.read(len(BOM)) == BOM:
        offset = len(BOM)
    file.seek(offset)
    while raw := file.readline(limit + 2):
        number += 1
        start = offset
        offset += len(raw)
        if len(raw.rstrip(b"\r\n")) > limit:
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(1 << 20)
                offset += len(raw)
            yield number, start, None
        else:
            yield number, start, raw.rstrip(b"\r\n")


def _check(
    text: bytes,
    number: int,
    rules: Rules,
    seen: dict[bytes, int],
    models: dict[str, tuple[str, str] | Serving],
    constraints: Constraints,
) -> tuple[str, str, uuid.UUID, dict[str, Any]]:
    """Check a line. Returns custom_id, model, prefix and body. Raises BadLine."""
    try:
        request = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        why = not_utf8(text) or error
        raise BadLine("invalid_json_line", f"This line is not parseable as valid JSON: {why}.") from None
    if not isinstance(request, dict):
        raise BadLine("invalid_json_line", "This line is not parseable as valid JSON: it is not an object.")
    for name in ("custom_id", "method", "url", "body"):
        if name not in request:
            raise BadLine("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
    custom_id = _check_custom_id(request["custom_id"], number, seen)
    if request["method"] != "POST":
        raise BadLine(
            "invalid_method", f"Invalid method: {_show(request['method'])}. Only 'POST' is supported.", "method"
        )
    if request["url"] != rules.endpoint:
        message = f"The URL {_show(request['url'])} does not match the batch endpoint '{rules.endpoint}'."
        raise BadLine("invalid_url", message, "url")
    body = request["body"]
    if not isinstance(body, dict):
        raise BadLine("invalid_request", f"The body must be a JSON object, not {_show(body)}.", "body")
    model = body.get("model") or rules.default_model
    if not model:
        raise BadLine("invalid_request", "The model is required: 'body.model' is missing.", "body.model")
    needed = _needed(body, rules.endpoint)
    if not isinstance(model, str):
        raise BadLine("model_not_found", f"The model {_show(model)} is not supported: it is not a name.", "body.model")
    if model not in models:
        if len(models) > 10_000:  # only a hostile file names so many models
            models.clear()
        models[model] = rules.refuse_model(model) or rules.serving(model)
    serving = models[model]
    if isinstance(serving, tuple):
        raise BadLine(*serving, "body.model")
    if body.get("stream") not in (None, False):
        raise BadLine(
            "streaming_unsupported", "Streaming is not supported in a batch; leave 'stream' out.", "body.stream"
        )
    if refused := parameters.refusal(rules.endpoint, body, serving):
        raise BadLine("unsupported_parameter", refused[1], f"body.{refused[0]}")
    if not serving.is_remote and (refusal := values.refusal(rules.endpoint, body, needed)):
        name, why = refusal
        raise BadLine("invalid_request", f"Invalid value for 'body.{name}': {why}.", f"body.{name}")
    try:
        raw_json.request_of(text)  # the parser that the runner uses
        prefix = _prefix(body, needed)
    except (NotAnObject, orjson.JSONEncodeError):  # these take fewer levels of nesting than orjson reads
        raise BadLine("invalid_json_line", "This line is nested too deeply to be run.") from None
    if serving.by_guidance and (wrong := constraints.wrong(body)):
        raise BadLine("invalid_constraint", wrong[1], f"body.{wrong[0]}")
    return custom_id, model, prefix, body


def _check_custom_id(value: Any, number: int, seen: dict[bytes, int]) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CUSTOM_ID or "\0" in value:
        message = (
            f"Invalid custom_id: {_show(value)}. It must be a string of 1 to {MAX_CUSTOM_ID} characters without NUL."
        )
        raise BadLine("invalid_custom_id", message, "custom_id")
    key = hashlib.blake2b(value.encode(), digest_size=16).digest()
    if earlier := seen.get(key):
        message = f"Duplicate custom_id: {_show(value)} is also on line {earlier}."
        raise BadLine("duplicate_custom_id", message, "custom_id")
    seen[key] = number
    return value


def _needed(body: dict[str, Any], endpoint: str) -> tuple[str, ...]:
    """The fields with what is asked. Raises BadLine when one is missing."""

    def missing(names: tuple[str, ...]) -> list[str]:
        return [name for name in names if body.get(name) is None]

    needed = min(REQUIRED[endpoint], key=lambda names: len(missing(names)))
    if not (absent := missing(needed)):
        return needed
    also = [" and ".join(names) for names in REQUIRED[endpoint] if names != needed]
    instead = f" The pairs {', '.join(also)} mean the same." if also else ""
    raise BadLine(
        "invalid_request", f"The field 'body.{absent[0]}' is required for {endpoint}.{instead}", f"body.{absent[0]}"
    )


def _prefix(body: dict[str, Any], needed: tuple[str, ...]) -> uuid.UUID:
    """Checksums of four ever longer beginnings of the prompt. Sorting by them puts requests together whose prompts
    begin alike, so that they hit the engine's prefix cache."""
    orjson.dumps(body)  # raises when the body cannot be written
    prompt = orjson.dumps([body.get("tools"), body.get("instructions"), *map(body.get, needed)])
    digest, start, parts = 0, 0, b""
    for cut in _PREFIX_CUTS:
        digest = zlib.crc32(prompt[start:cut], digest)
        parts += digest.to_bytes(4)
        start = cut
    return uuid.UUID(bytes=parts)


def _show(value: Any) -> str:
    """A value for a message: short, on one line, and as a database can hold it."""
    try:
        text = orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 100 else text[:100] + "…"
