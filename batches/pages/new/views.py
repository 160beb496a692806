"""A new batch in the browser: a table, a batch file or prompts come in, are checked and mended, and one batch is made.

Everything is a plain form that works without scripts; htmx is answered with the form alone.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from django.contrib import messages
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.http import Http404, HttpResponse, QueryDict, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from batches.api.serializers import ENDPOINTS
from batches.files import blobs
from batches.intake import repair, submit
from batches.intake.records import record
from batches.intake.repair import Checked, UnusableFile
from batches.intake.tables.cells import TableError
from batches.intake.validate import Report
from batches.models import MOST_NAME, Batch, File, FileQuerySet, FileStatus
from batches.pages.new import page as create
from batches.pages.new import preview as previews
from batches.pages.new import samples, shown, table
from batches.pages.new.forms import (
    FILE,
    FORMS,
    PROMPTS,
    RECHECKED,
    TABLE,
    NewBatch,
    NewPrompts,
    NewTable,
    Prompted,
    like,
)
from batches.pages.new.shown import Sent
from vbs.configuration import audit
from vbs.openai.errors import refusal
from vbs.pages import once
from vbs.pages.access import Request, page
from vbs.pages.plain import brief

WRONG, TOO_LARGE = 422, 413
MAY = "batches.add_batch"
GONE = "The file was deleted: it is kept for one hour only. Choose it again; everything else is as you left it."


@require_http_methods(["GET", "POST"])
@page(MAY)
def new(request: Request) -> HttpResponseBase:
    return _create(request) if request.method == "POST" else _empty(request)


def _empty(request: Request) -> HttpResponseBase:
    known = create.ready_names()
    if not known:
        return render(request, "batches/new/no_models.html")
    initial: dict[str, Any] = request.GET.dict()
    way, file, error = request.GET.get("way", ""), None, ""
    if "clone" in request.GET:
        batch = _own_batch(request, request.GET["clone"])
        way, initial = FILE, dict(like(batch))
        file = _usable(request).filter(pk=batch.input_file_id).first()
        error = "" if file else f"The input file of {batch.pk} is not kept any more: choose a file."
    elif "file" in request.GET:
        try:
            file = _find(request, request.GET["file"])
        except FileNotFoundError:
            error = GONE
    if (model := initial.get("model")) and model not in known:
        error = f"{error} No model or alias “{brief(model, 100)}” is ready now.".strip()
        initial["model"] = ""
    if file is not None:
        initial.setdefault("name", file.stem[:MOST_NAME])
        initial.setdefault("endpoint", "" if repair.is_table(file) else repair.guess_endpoint(file, ""))
    return _show(request, file, None, initial=initial, way=way, error=error, status=200)


def _own_batch(request: Request, batch_id: str) -> Batch:
    rows = request.viewer.all_own(Batch.objects.filter(hidden=False).select_related("project"))
    batch: Batch | None = None if "\0" in batch_id else rows.filter(pk=batch_id).first()
    if batch is None:
        raise Http404
    return batch


def _show(
    request: Request,
    file: File | None,
    data: Any,
    *,
    status: int,
    way: str = "",
    initial: dict[str, Any] | None = None,
    error: str = "",
    note: str = "",
    refused: str = "",
    typed: dict[int, str] | None = None,
    found: Checked | None = None,
) -> HttpResponse:
    """The form with what was sent, and the result of the check. error: about the file. note: about the form. refused:
    why lines cannot be taken as they were typed."""
    way = way or (data or {}).get("way", "")
    if file is not None and way != PROMPTS:
        way = TABLE if repair.is_table(file) else FILE
    sent = Sent(request.viewer, request.user, way if way in FORMS else TABLE, data, initial, file, typed)
    try:
        context = shown.context(sent, found)
    except FileNotFoundError:
        return _show(request, None, data, initial=initial, way=way, error=GONE, status=WRONG)
    template = "batches/new/_form.html" if request.htmx else "batches/new/index.html"
    return render(request, template, context | {"error": error, "note": note, "refused": refused}, status=status)


# Check and mend


@require_POST
@page(MAY)
def check(request: Request) -> HttpResponseBase:
    """Take in a new file or use the one from before, do what the form asks for, and show the result of the check."""
    data = request.POST.copy()
    typed: dict[int, str] = {}
    file: File | None = None
    found: Checked | None = None
    try:
        file, is_fresh = _file(request)
        if file and is_fresh:
            _preset(data, file)
        elif file and data.get("do") == "mend":
            typed = _typed(data)
            file, typed = _mended(request, data, file, typed), {}
        elif file and data.get("do") == "leave-out":
            file = _without_bad_lines(request, data, file)
        if file and repair.is_table(file) and data.get("do") in ("mend", "leave-out"):
            found = _checked(request, file, data)
    except (UnusableFile, TableError) as error:
        status = TOO_LARGE if isinstance(error, repair.FileTooLarge) else WRONG
        if not typed or file is None:
            return _show(request, file, data, error=str(error), status=status)
        found = _checked(request, file, data)  # what was typed stays in the form, beside what is wrong
        return _show(request, file, data, refused=str(error), typed=typed, found=found, status=status)
    except FileNotFoundError:
        return _show(request, None, data, error=GONE, status=WRONG)
    except OSError as error:
        if (refused := refusal(error, request)) is None:
            raise
        return _show(request, file, data, error=refused.message, status=refused.status_code)
    if column := data.get("insert"):
        data["template"] = f"{data.get('template', '')}{{{column}}}"
    return _show(request, file, data, found=found, status=200)


def _file(request: Request) -> tuple[File | None, bool]:
    """The uploaded file or a sample with True, else the file from before with False. Raises UnusableFile,
    FileNotFoundError."""
    given = request.FILES.get("file")
    is_sample = request.POST.get("do") == "sample"
    if given is None and not is_sample:
        return _kept(request), False
    form = NewBatch(request.viewer, request.POST)
    form.is_valid()
    if (project := form.cleaned_data.get("project")) is None:
        raise UnusableFile("Choose one of your projects for the file.")
    if is_sample:
        name, content = samples.of(request.POST.get("way", ""), form.cleaned_data.get("model", ""))
        with blobs.scratch() as scratch:
            scratch.write(content)
            scratch.flush()
            return repair.keep(project, Path(scratch.name), name, request.user), True
    assert isinstance(given, TemporaryUploadedFile)
    return repair.keep(project, Path(given.temporary_file_path()), given.name or "", request.user), True


def _preset(data: QueryDict, file: File) -> None:
    """Fill in what a file that has just come suggests."""
    data["name"] = file.stem[:MOST_NAME]
    for name in [name for name in data if name.startswith(table.CHOICE)]:
        del data[name]
    if not repair.is_table(file):
        data["endpoint"] = repair.guess_endpoint(file, data.get("model", ""))
        return
    data["model"] = data.get("model") or create.usual_model(file.project_id)
    data["id_column"] = table.look(file, data).ids
    if data.get("do") == "sample":
        data["template"] = samples.TEMPLATE


def _usable(request: Request) -> FileQuerySet:
    """The files that this person may make a batch of, whatever id they send."""
    return request.viewer.all_own(File.objects.usable_by(request.user))  # type: ignore[return-value]


def _kept(request: Request) -> File | None:
    """The file that the form had before; it is kept for some time more. Raises FileNotFoundError."""
    file_id = request.POST.get("kept", "")
    return _find(request, file_id) if file_id else None


def _find(request: Request, file_id: str) -> File:
    rows = _usable(request).filter(pk=file_id.replace("\0", ""))
    rows.prolong()
    if (file := rows.select_related("project").first()) is None:
        raise FileNotFoundError
    return file


def _typed(data: Any) -> dict[int, str]:
    """The corrected lines by their numbers."""
    names = [name for name in data if name.startswith("line-") and name[5:].isascii() and name[5:].isdigit()]
    return {int(name[5:]): data[name] for name in names[: repair.MENDED] if len(name) < 16}


def _mended(request: Request, data: QueryDict, file: File, typed: dict[int, str]) -> File:
    """A file with the lines as they were typed. Raises UnusableFile, TableError, FileNotFoundError, OSError."""
    reading = table.reading_of(file, data) if repair.is_table(file) else None
    mended = repair.replace(file, typed, request.user, reading)
    data.update(table.choices_of(reading.rewritten()) if reading else {})
    return mended


def _without_bad_lines(request: Request, data: QueryDict, file: File) -> File:
    """A file without them, or the same file when it is wrong as a whole. Raises FileNotFoundError, OSError."""
    found = _checked(request, file, data)
    if found.fatal:
        return file
    left = repair.leave_out(found, request.user)
    data.update(table.choices_of(found.reading.rewritten()) if found.reading else {})
    return left


def _checked(request: Request, file: File, data: Any, kind: type[Report] = Report) -> Checked:
    """The result of a check of all lines, or of all rows as requests. Raises FileNotFoundError."""
    if not repair.is_table(file):
        endpoint = data.get("endpoint") if data.get("endpoint") in ENDPOINTS else ENDPOINTS[0]
        return repair.check(file, endpoint, data.get("model", ""), request.user, kind)
    looked = table.look(file, data)
    if looked.why or looked.reading is None:
        return Checked(file, ENDPOINTS[0], fatal=looked.why)
    form = NewTable(request.viewer, data, looked)
    form.is_valid()
    making = previews.making(form, looked.headings)
    return repair.check(file, making.endpoint, making.model, request.user, kind, making=making, reading=looked.reading)


# Preview, report, samples


@require_POST
@page(MAY)
def preview(request: Request) -> HttpResponse:
    """The first requests as they would be made now, and what all of them will take."""
    way = request.POST.get("way", "")
    try:
        file = _kept(request) if way == TABLE else None
        sent = Sent(request.viewer, request.user, way, request.POST, file=file)
        found = shown.preview_of(sent)
    except FileNotFoundError:
        found = previews.Preview(GONE, is_error=True)
    return render(request, "batches/new/_preview.html", {"preview": found})


@require_POST
@page(MAY)
def report(request: Request) -> HttpResponseBase:
    """Every wrong line of the form's file, as a download."""
    try:
        file = _kept(request)
        if file is None:
            raise Http404
        found = _checked(request, file, request.POST, create.WholeReport)
    except FileNotFoundError:
        raise Http404 from None
    as_json = request.GET.get("format") == "json"
    rows: Iterator[bytes] = (create.report_json if as_json else create.report_csv)(list(found.errors))
    kind, name = ("application/json", "bad-lines.json") if as_json else ("text/csv; charset=utf-8", "bad-lines.csv")
    return _download(rows, kind, name)


def _download(content: Iterator[bytes], kind: str, name: str) -> HttpResponseBase:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "X-Content-Type-Options": "nosniff"}
    return StreamingHttpResponse(content, content_type=kind, headers=headers)


@require_GET
@page(MAY)
def sample_jsonl(request: Request) -> HttpResponseBase:
    content = samples.sample_jsonl(*samples.sample_model(request.GET.get("model", "")))
    return _download(iter([content]), "application/jsonl", "sample.jsonl")


@require_GET
@page(MAY)
def sample_csv(request: Request) -> HttpResponseBase:
    content = samples.sample_csv(*samples.sample_model(request.GET.get("model", "")))
    return _download(iter([content]), "text/csv; charset=utf-8", "sample.csv")


# Create


def _create(request: Request) -> HttpResponseBase:
    """Make one batch of what the form has."""
    if request.FILES.get("file") is not None:
        return check(request)
    if request.POST.get("way") == PROMPTS:
        return _of_prompts(request)
    try:
        file = _kept(request)
        if file is None:
            return _show(request, None, request.POST, error="Choose a file first, or use the sample.", status=WRONG)
        return (_of_table if repair.is_table(file) else _of_file)(request, file)
    except FileNotFoundError:
        return _show(request, None, request.POST, error=GONE, status=WRONG)


def _of_file(request: Request, file: File) -> HttpResponseBase:
    """A file that was not checked with these options is checked first."""
    form = NewBatch(request.viewer, request.POST)
    if not form.is_valid():
        return _show(request, file, request.POST, status=WRONG)
    ready = create.ready(request.POST.get("ready", ""))
    if any(ready.get(name) != (form.cleaned_data[name] or "") for name in RECHECKED):
        if not form.cleaned_data["endpoint"]:
            data = request.POST.copy()
            data["endpoint"] = repair.guess_endpoint(file, form.cleaned_data["model"])
            return _show(request, file, data, status=200)
        note = "The file was checked again for what you have chosen. Review the result, then create the batch."
        return _show(request, file, request.POST, note=note, status=WRONG)
    project = form.cleaned_data["project"]
    if file.status == FileStatus.AVAILABLE and file.project_id != project.pk:
        error = f"This input file belongs to the project {file.project.name}: choose that, or upload the file."
        return _show(request, file, request.POST, error=error, status=WRONG)
    note = "The file had to be read again. Review the result, then create the batch."
    since = datetime.fromisoformat(ready["since"])
    made = _made_of(request, form, ready["file"], form.cleaned_data["endpoint"], since)
    return made or _show(request, file, request.POST, note=note, status=WRONG)


def _of_table(request: Request, file: File) -> HttpResponseBase:
    """Its rows become requests, which are checked; the batch is made when none of them is wrong."""
    looked = table.look(file, request.POST)
    form = NewTable(request.viewer, request.POST, looked)
    if not form.is_valid() or looked.why:
        return _show(request, file, request.POST, status=WRONG)
    return _of_rows(request, form, file, lambda: _checked(request, file, request.POST))


def _of_prompts(request: Request) -> HttpResponseBase:
    """What was typed becomes a table with one column, which is made into a batch as any table is."""
    form = NewPrompts(request.viewer, request.POST)
    if not form.is_valid():
        return _show(request, None, request.POST, status=WRONG)
    making = previews.making(form, previews.TYPED)

    def found() -> Checked:
        with blobs.scratch() as scratch:
            for row in previews.typed_rows(form.cleaned_data["prompts"]):
                scratch.write(record(row.columns))
            scratch.flush()
            typed = repair.keep(form.cleaned_data["project"], Path(scratch.name), "prompts.jsonl", request.user)
        return repair.check(typed, making.endpoint, making.model, request.user, making=making)

    return _of_rows(request, form, None, found)


def _of_rows(request: Request, form: Prompted, file: File | None, check: Callable[[], Checked]) -> HttpResponseBase:
    try:
        if made := once.made(form.mark):
            return _again(request, made)
        found = check()
    except UnusableFile as error:
        return _show(request, file, request.POST, error=str(error), status=WRONG)
    except OSError as error:
        if isinstance(error, FileNotFoundError) or (refused := refusal(error, request)) is None:
            raise
        return _show(request, file, request.POST, error=refused.message, status=refused.status_code)
    made_of = None
    if found.ready:
        made_of = _made_of(request, form, found.ready.pk, found.endpoint, timezone.now())
    return made_of or _show(request, file, request.POST, found=found, status=WRONG)


def _made_of(request: Request, form: NewBatch, file_id: str, endpoint: str, since: datetime) -> HttpResponseBase | None:
    """None when the file is gone."""
    project, who = form.cleaned_data["project"], request.user.get_username()
    is_new = False

    def make() -> str:
        nonlocal is_new
        options = form.options() | {"endpoint": endpoint}
        batch, is_new = submit.create_once(_usable(request), project, file_id, since, who, **options)
        if is_new:
            detail = f"{batch.endpoint}, priority {batch.priority}, {batch.completion_window}, {batch.input_file}"
            audit.record(request, "batch.create", batch.pk, detail, project=project)
        return batch.pk

    try:
        pk, _ = once.make(form.mark, project, make)
    except submit.NoFile:
        return None
    if not is_new:
        return _again(request, pk)
    messages.success(request, f"The batch {form.cleaned_data['name'] or pk} is created; its file is read now.")
    return redirect(f"/batches/{pk}/")


def _again(request: Request, pk: str) -> HttpResponseBase:
    messages.info(request, f"{pk} was created from this form already.")
    return redirect(f"/batches/{pk}/")
