"""Makes the requests of an input file from the rows of a table. Pure and streaming: rows in, JSONL and errors out.

A row becomes the line of the JSONL with the same number. A blank or wrong row leaves its line blank. So a message
about a line of the input file is about that row. Every column of the row stays beside its request.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO, Any

import orjson

from batches.intake.records import record
from batches.intake.tables.cells import Limits, TableError
from batches.intake.tables.rows import Row
from batches.intake.tables.template import Template, TemplateError, value
from batches.intake.validate import Report

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
EMBEDDINGS, RESPONSES = "/v1/embeddings", "/v1/responses"
SCORE, RERANK = "/v1/score", "/v1/rerank"
QUESTIONS = {SCORE: "queries", RERANK: "query"}  # what the documents of these are compared with
SYSTEMS = (CHAT, RESPONSES)  # the endpoints that take a system prompt
# The columns that hold what is asked, where there is no prompt template.
TEXT, MESSAGES, DOCUMENTS = ("prompt", "input"), "messages", "documents"
MADE = ("model", "messages", "prompt", "input", "query", "queries", "documents")  # no parameters


class BadRow(Exception):
    """No request can be made of the row. The message says why; param: the column."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Making:
    """How a row becomes a request.

    template: of the prompt. Without one, a column of the row is the prompt (`prompt`, `input`, `messages`, `queries`
    or `query` with `documents`), and columns `model`, `system`, `custom_id`, `max_tokens`, `temperature` and `top_n`
    count before what is said here. system, documents: templates too. id_column: whose values are the custom_ids.
    parameters: members of every body. needs_model: whether every request must name one.
    """

    endpoint: str
    model: str = ""
    template: str = ""
    system: str = ""
    id_column: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    documents: tuple[str, ...] = ()
    needs_model: bool = True

    @cached_property
    def _prompt(self) -> Template:
        return Template(self.template)

    @cached_property
    def _system(self) -> Template:
        return Template(self.system)

    @cached_property
    def _documents(self) -> list[Template]:
        return [Template(text) for text in self.documents]

    @cached_property
    def _parameters(self) -> dict[str, Any]:
        given = dict(self.parameters)
        if self.endpoint == RESPONSES and "max_tokens" in given:
            given["max_output_tokens"] = given.pop("max_tokens")
        return given

    def check(self, headings: Iterable[str]) -> None:
        """Check what counts for all rows of a table with these headings. Raises TableError."""
        names = list(headings)
        if wrong := [name for name in MADE if name in self.parameters]:
            message = f"The parameter '{wrong[0]}' is made of each row: leave it out of the parameters."
            raise TableError(message, "parameters")
        known = {name.strip().lower() for name in names}
        if self.needs_model and not self.model and (self.template or "model" not in known):
            column = "" if self.template else ", or add a column 'model'"
            raise TableError(f"No model is named: choose one{column}.", "model")
        for template in (self._prompt, self._system, *self._documents):
            template.check(names)
        if self.id_column:
            value(dict.fromkeys(names, ""), self.id_column)
        if self.system and self.endpoint not in SYSTEMS:
            raise TableError(f"A system prompt does not go with {self.endpoint}: leave it out.", "system")
        if self.endpoint in QUESTIONS and DOCUMENTS not in known and not self.documents:
            raise TableError(f"No column is called 'documents', which {self.endpoint} needs.")
        if not self.template:
            self._check_contents(names, known)

    def _check_contents(self, names: list[str], known: set[str]) -> None:
        there = [name for name in _contents(self.endpoint) if name in known]
        if len(there) > 1:
            raise TableError(
                f"The columns {' and '.join(there)} both give the prompt: write a prompt template that says which."
            )
        if not there:
            wanted = " or ".join(repr(name) for name in _contents(self.endpoint))
            shown = ", ".join(name[:60] for name in names[:20])
            raise TableError(
                "No column holds what is asked: write a prompt template, such as "
                f"“Summarise: {{{names[0][:60]}}}”, or call a column {wanted}. The columns are: {shown}."
            )

    def request_of(self, row: Row) -> dict[str, Any]:
        """The line of the input file. Raises BadRow."""
        if row.columns is None:
            raise BadRow(f"{row.why}.")
        given = {} if self.template else {name.strip().lower(): text for name, text in row.columns.items()}
        try:
            content = self._filled(row.columns) if self.template else self._content(given)
            system = given.get("system") or self._system.fill(row.columns)
            custom_id = value(row.columns, self.id_column) if self.id_column else given.get("custom_id", "")
        except TemplateError as error:  # a JSON object without the column
            raise BadRow(str(error)) from None
        model = given.get("model", "").strip() or self.model
        if self.needs_model and not model:
            raise BadRow("The row names no model: fill the column 'model', or choose a model for all rows.", "model")
        body: dict[str, Any] = {"model": model} if model else {}
        body |= self._parameters | content | _options(given, self.endpoint)
        if system:
            body = _with_system(body, system, self.endpoint)
        if self.id_column and not custom_id:
            raise BadRow(f"The column {self.id_column[:60]!r} gives no id: it is empty.", self.id_column[:60])
        custom_id = custom_id or f"row-{row.number}"
        line = {"custom_id": custom_id, "method": "POST", "url": self.endpoint, "body": body}
        return line | ({"row": dict(row.given)} if row.given else {})

    def prompt_of(self, row: Row) -> str:
        """The filled prompt, as people read it. Raises BadRow."""
        body = self.request_of(row)["body"]
        if self.endpoint == CHAT:
            last = body["messages"][-1].get("content")
            return last if isinstance(last, str) else orjson.dumps(body["messages"]).decode()
        found = body[QUESTIONS.get(self.endpoint) or ("prompt" if self.endpoint == COMPLETIONS else "input")]
        return found if isinstance(found, str) else orjson.dumps(found).decode()

    def _filled(self, columns: dict[str, str]) -> dict[str, Any]:
        text = self._prompt.fill(columns)
        if not text.strip():
            raise BadRow("The filled prompt is empty: the columns that it names have no text.")
        if self.endpoint in QUESTIONS:
            return {QUESTIONS[self.endpoint]: text, DOCUMENTS: self._beside(columns)}
        return _body(text, self.endpoint)

    def _beside(self, columns: dict[str, str]) -> str | list[str]:
        if self._documents:
            return [one.fill(columns) for one in self._documents]
        return _one_or_many(DOCUMENTS, value(columns, DOCUMENTS))

    def _content(self, given: dict[str, str]) -> dict[str, Any]:
        """What is asked, by the columns that have names for it."""
        column = next((name for name in _contents(self.endpoint) if name in given), "")
        text = given.get(column, "")
        if not text:
            raise BadRow(f"The column '{column or _contents(self.endpoint)[0]}' is empty.", column or None)
        if self.endpoint in QUESTIONS:
            question = text if column == "query" else _one_or_many(column, text)
            return {column: question, DOCUMENTS: self._beside(given)}
        return _body(_messages(text) if column == MESSAGES else text, self.endpoint)


def endpoint_by_columns(names: Iterable[str], usual: str, task: str) -> str:
    """The endpoint that these columns suit where there is no template: the usual one, but where only another has them.
    task: of the model, if one is chosen."""
    known = {name.strip().lower() for name in names}
    for endpoint, question in QUESTIONS.items():
        if {question, DOCUMENTS} <= known:
            return endpoint
    return EMBEDDINGS if "input" in known and not task else usual


def _contents(endpoint: str) -> tuple[str, ...]:
    if endpoint in QUESTIONS:
        return (QUESTIONS[endpoint],)
    return (*TEXT, MESSAGES) if endpoint in SYSTEMS else TEXT


def _body(asked: str | list[Any], endpoint: str) -> dict[str, Any]:
    if endpoint == CHAT:
        return {"messages": asked if isinstance(asked, list) else [{"role": "user", "content": asked}]}
    return {"prompt" if endpoint == COMPLETIONS else "input": asked}


def _with_system(body: dict[str, Any], system: str, endpoint: str) -> dict[str, Any]:
    if endpoint == RESPONSES:
        return body | {"instructions": system}
    if endpoint == CHAT:
        return body | {"messages": [{"role": "system", "content": system}, *body["messages"]]}
    return body


def _options(given: dict[str, str], endpoint: str) -> dict[str, Any]:
    """The parameters that the row has in columns of its own, where the endpoint takes them."""
    tokens = "max_output_tokens" if endpoint == RESPONSES else "max_tokens"
    writes = endpoint in (CHAT, COMPLETIONS, RESPONSES)
    readers: list[tuple[str, str, bool, Callable[[str, str], Any]]] = [
        ("max_tokens", tokens, writes, _whole),
        ("temperature", "temperature", writes, _temperature),
        ("top_n", "top_n", endpoint == RERANK, _whole),
    ]
    texts = ((name, member, read, given.get(name, "").strip()) for name, member, fits, read in readers if fits)
    return {member: read(text, name) for name, member, read, text in texts if text}


def _one_or_many(column: str, text: str) -> str | list[str]:
    """A text, or several as a JSON array of strings. A text may begin with a bracket too."""
    if not text:
        raise BadRow(f"The column '{column}' is empty.", column)
    try:
        found = orjson.loads(text) if text.lstrip().startswith("[") else None
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
        return found
    return text


def _messages(text: str) -> list[Any]:
    example = '[{"role": "user", "content": "…"}]'
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRow(f"The column 'messages' is not JSON ({error}). It looks like {example}.", MESSAGES) from None
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) and "role" in one for one in found):
        raise BadRow(f"The column 'messages' must be a list of messages with a role, like {example}.", MESSAGES)
    try:
        orjson.dumps(found)
    except orjson.JSONEncodeError:  # orjson reads deeper nesting than it writes
        raise BadRow("The column 'messages' is nested too deeply.", MESSAGES) from None
    return found


def _whole(text: str, column: str) -> int:
    if text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text):
        return int(text)
    raise BadRow(f"{column} is {text[:40]!r}: write a whole number from 1 on, or nothing.", column)


def _temperature(text: str, column: str) -> float:
    try:
        found = float(text.replace(",", ".", 1))  # as a spreadsheet of much of the world writes it
    except ValueError:
        found = math.nan
    if not 0 <= found <= 2:
        raise BadRow(f"{column} is {text[:40]!r}: write a number from 0 to 2, such as 0.7, or nothing.", column)
    return found


def line_of(request: dict[str, Any]) -> bytes:
    """The request as a line of the input file, with its end. Raises BadRow."""
    try:
        return record(request)
    except orjson.JSONEncodeError:  # with one level more than the row itself
        raise BadRow("The row is nested too deeply.") from None


def make(rows: Iterable[Row], making: Making, target: IO[bytes], report: Report, limits: Limits) -> int:
    """Write the requests; the report gets the wrong rows. Stops soon after `limits.requests`. Returns how many rows
    there were that are not blank. Raises TableError."""
    size = count = written = 0
    for row in rows:
        if row.is_blank:
            continue
        count += 1
        try:
            line = line_of(making.request_of(row))
        except BadRow as bad:
            report.add("invalid_row", row.number, str(bad), bad.param)
        else:
            target.write(b"\n" * (row.number - 1 - written) + line)
            size, written = size + len(line), row.number
        if size > limits.table_bytes:
            raise TableError(
                f"As requests, the rows have more than {limits.table_bytes // 2**20} MB, the limit of one batch, from "
                f"row {row.number:,} on. A request holds its prompt and beside it every column of the row, so a text "
                "counts twice. Split the table before that row, or remove columns that you do not need."
            )
        if count > limits.requests + 1:  # who reads the lines reports that
            break
    return count
