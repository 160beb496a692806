"""The results of a batch as a table: a row for each request that has ended, in the order of the input file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batches.export import answers
from batches.export.source import Source
from batches.finish import outputs
from batches.models import Batch, BatchRequest, RequestState
from vbs.openai import raw_json
from vbs.openai.errors import NotFound
from vbs.openai.raw_json import Members

PAGE = 100  # rows that are in memory at once
ENDED = (RequestState.COMPLETED, *RequestState.in_error_file())
MORE_FIELDS = ("offset", "length", "model_index", "input_tokens", "output_tokens")

# Each with whether it is a number. The columns of the input stand behind the first.
OWN = {
    "custom_id": False,
    "answer": False,
    "status": False,
    "error": False,
    "status_code": True,
    "model": False,
    "finish_reason": False,
    "input_tokens": True,
    "output_tokens": True,
}


@dataclass(frozen=True)
class Headings:
    """The names of the columns. own: of OWN, each changed where a column of the input has it."""

    own: tuple[str, ...]
    given: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return self.own[:1] + self.given + self.own[1:]


@dataclass(frozen=True)
class Row:
    """own: the values of OWN. given: those of the input, as JSON; a column that is not in it is empty."""

    own: tuple[str | int | None, ...]
    given: Members


def headings(given: Sequence[str]) -> Headings:
    """An own column whose name the input has is called `answer_2`, or has the next number that nobody has. Some readers
    take no notice of case."""
    taken = {name.casefold() for name in given}
    own = []
    for name in OWN:
        free, number = name, 2
        while free in taken:
            free, number = f"{name}_{number}", number + 1
        taken.add(free)
        own.append(free)
    return Headings(tuple(own), tuple(given))


def pages(batch: Batch, source: Source | None) -> Iterator[list[Row]]:
    """The rows, some at a time. source: where the columns of the input are wanted. Raises NotFound when they are
    deleted meanwhile."""
    found = outputs.page(batch, ENDED, 0, MORE_FIELDS, PAGE)
    while found:
        yield [_row(batch, request, source) for request in found]
        found = outputs.page(batch, ENDED, found[-1].line, MORE_FIELDS, PAGE)
    if not Batch.objects.filter(pk=batch.pk, purged_at=None).exists():
        raise expired()


def expired() -> NotFound:
    return NotFound(
        "The requests of this batch are no longer kept: it ended long ago. Its output file may still be there, as "
        "format=jsonl without join=input.",
        param="id",
        code="results_expired",
    )


def _row(batch: Batch, request: BatchRequest, source: Source | None) -> Row:
    text = ended = None
    if request.state == RequestState.COMPLETED and request.response is not None:
        text, ended = answers.answer(request.response)
    names = batch.model_names
    own = (
        request.custom_id,
        text,
        RequestState(request.state).name.lower(),
        ": ".join(filter(None, outputs.wrong(request) or ())) or None,
        request.status_code,
        names[request.model_index] if request.model_index < len(names) else None,
        ended or None,
        request.input_tokens,
        request.output_tokens,
    )
    return Row(own, source.cells(request) if source else {})


def text_of(cell: raw_json.Raw | None) -> str | None:
    """A cell of the input as text: a text as it is, nothing for null, and any other value as its JSON."""
    if cell is None or (value := raw_json.value(cell)) is None:
        return None
    return value if isinstance(value, str) else bytes(cell).decode()
