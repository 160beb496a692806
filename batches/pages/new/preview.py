"""The first requests as they would be made, renewed while somebody types, and what all of them will take."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from batches.intake.repair import endpoint_of_table
from batches.intake.tables.cells import TableError
from batches.intake.tables.requests import BadRow, Making
from batches.intake.tables.rows import NO_ROWS, Row
from batches.pages.new import estimate
from batches.pages.new.estimate import Estimate
from batches.pages.new.forms import PROMPTS, Prompted, typed_prompts

FILLED = 3  # requests that are shown
TYPED = ("prompt",)  # the column of typed prompts
CONTENTS = {"prompt", "input", "messages", "query", "queries"}  # columns that need no template
NOTHING_YET = "The first three filled prompts appear here as you write."
NO_MODEL = "Choose a model."


@dataclass(frozen=True)
class Filled:
    """A request as it would be made of a row; why: the reason why it cannot be made."""

    number: int
    custom_id: str = ""
    text: str = ""
    why: str = ""


@dataclass(frozen=True)
class Preview:
    """why: the reason why there is nothing to show; is_error: it is something to correct. missing: what is missing for
    an estimate. is_typed: the requests are typed prompts, and no rows of a table."""

    why: str = ""
    is_error: bool = False
    filled: tuple[Filled, ...] = ()
    estimate: Estimate | None = None
    missing: str = ""
    is_typed: bool = False


def typed_rows(text: str) -> tuple[Row, ...]:
    """What was typed, as rows of a table with one column."""
    return tuple(
        Row(number, columns := {"prompt": prompt}, given=columns)
        for number, prompt in enumerate(typed_prompts(text), 1)
    )


def making(form: Prompted, headings: Sequence[str]) -> Making:
    """How the form says that requests are made. Where it names no endpoint, that follows from the model, or from the
    columns."""
    model, template = form.chosen("model") or "", form.chosen("template") or ""
    suggested = endpoint_of_table(headings, model, template)
    return Making(
        endpoint=form.chosen("endpoint") or suggested,
        model=model,
        template=template,
        system=form.chosen("system") or "",
        id_column=form.chosen("id_column") or "",
        parameters=form.all_parameters(),
    )


def of(form: Prompted, first: Sequence[Row], count: int, headings: Sequence[str]) -> Preview:
    """first: the first rows of the table. count: of all rows."""
    made = making(form, headings)
    known = {name.lower() for name in headings}
    has_model = bool(made.model) or (not made.template and "model" in known)
    named = made if has_model else replace(made, model="-")
    is_typed = form.way == PROMPTS
    if not count:
        return Preview(NOTHING_YET) if is_typed else Preview(NO_ROWS, is_error=True)
    try:
        named.check(headings)
    except TableError as error:
        is_empty = not made.template and not known & CONTENTS
        return Preview(NOTHING_YET) if is_empty else Preview(str(error), is_error=True)
    filled = tuple(_filled(row, named) for row in first[:FILLED])
    if not has_model:
        return Preview(filled=filled, missing=NO_MODEL, is_typed=is_typed)
    bodies = [body for row in first if (body := _body(row, made))]
    project = form.chosen_project
    options = form.options() | {"endpoint": made.endpoint}
    found = estimate.of(project, options, bodies, count) if project else None
    return Preview(filled=filled, estimate=found, is_typed=is_typed)


def _filled(row: Row, made: Making) -> Filled:
    try:
        request = made.request_of(row)
        return Filled(row.number, request["custom_id"], made.prompt_of(row))
    except BadRow as bad:
        return Filled(row.number, why=str(bad))


def _body(row: Row, made: Making) -> dict[str, Any] | None:
    try:
        body: dict[str, Any] = made.request_of(row)["body"]
    except BadRow:
        return None
    return body
