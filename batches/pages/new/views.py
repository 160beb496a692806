"""A new batch in the browser: a file comes in and is checked, is mended, and a batch is made of it.

Everything is a plain form that works without scripts; htmx is answered with the form alone.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from django.contrib import messages
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.db import transaction
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from batches.api.serializers import ENDPOINTS
from batches.files import blobs
from batches.intake import repair, submit
from batches.intake.repair import UnusableFile
from batches.models import Batch, File, FileQuerySet, FileStatus
from batches.pages.new import page as create
from batches.pages.new.forms import RECHECKED, NewBatch, like
from vbs.configuration import audit
from vbs.openai.errors import refusal
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
    if not create.ready_names():
        return render(request, "batches/new/no_models.html")
    initial: dict[str, Any] = {"model": request.GET.get("model", "")}
    file, error = None, ""
    if "clone" in request.GET:
        batch = _own_batch(request, request.GET["clone"])
        initial = dict(like(batch))
        file = _usable(request).filter(pk=batch.input_file_id).first()
        error = "" if file else f"The input file of {batch.pk} is not kept any more: choose a file."
    known = create.ready_names()
    if initial["model"] and initial["model"] not in known:
        error = f"{error} No model or alias “{brief(initial['model'], 100)}” is ready now.".strip()
        initial["model"] = ""
    return _show(request, NewBatch(request.viewer, initial=initial), file, initial, error=error, status=200)


def _own_batch(request: Request, batch_id: str) -> Batch:
    rows = request.viewer.all_own(Batch.objects.filter(hidden=False).select_related("project"))
    batch: Batch | None = None if "\0" in batch_id else rows.filter(pk=batch_id).first()
    if batch is None:
        raise Http404
    return batch


# Check and mend


@require_POST
@page(MAY)
def check(request: Request) -> HttpResponseBase:
    """Take in a new file or use the one from before, do what the form asks for, and show the result of the check."""
    data = request.POST.copy()
    form = NewBatch(request.viewer, data)
    form.is_valid()
    typed: dict[int, str] = {}
    file: File | None = None
    try:
        file, fresh = _file(request, form)
        if fresh or not data.get("endpoint"):
            if file and (not data.get("endpoint") or not repair.is_table(file)):
                data["endpoint"] = repair.guess_endpoint(file, form.cleaned_data.get("model", ""))
            form = NewBatch(request.viewer, data)
            form.is_valid()
        if file and not fresh and data.get("do") == "mend":
            typed = _typed(data)
            file, typed = repair.replace(file, typed, request.user), {}
        elif file and not fresh and data.get("do") == "leave-out":
            found = repair.check(file, *(_chosen(form)), request.user)
            if not found.fatal:
                file = repair.leave_out(found, request.user)
    except UnusableFile as error:
        status = TOO_LARGE if isinstance(error, repair.FileTooLarge) else WRONG
        return _show(request, form, file, form.cleaned_data, error=str(error), typed=typed, status=status)
    except FileNotFoundError:
        return _show(request, form, None, error=GONE, status=WRONG)
    except OSError as error:
        if (refused := refusal(error, request)) is None:
            raise
        return _show(request, form, file, form.cleaned_data, error=refused.message, status=refused.status_code)
    return _show(request, form, file, form.cleaned_data, status=200)


def _file(request: Request, form: NewBatch) -> tuple[File | None, bool]:
    """The uploaded file or a sample with True, else the file from before with False. Raises UnusableFile,
    FileNotFoundError."""
    given = request.FILES.get("file")
    sample = request.POST.get("do") == "sample"
    if given is None and not sample:
        return _kept(request), False
    project = form.cleaned_data.get("project")
    if project is None:
        raise UnusableFile("Choose one of your projects for the file.")
    if sample:
        with blobs.scratch() as scratch:
            scratch.write(create.sample_jsonl(*create.sample_model(form.cleaned_data.get("model", ""))))
            scratch.flush()
            return repair.keep(project, Path(scratch.name), "sample.jsonl", request.user), True
    assert isinstance(given, TemporaryUploadedFile)
    return repair.keep(project, Path(given.temporary_file_path()), given.name or "", request.user), True


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


def _chosen(form: NewBatch) -> tuple[str, str]:
    found = form.cleaned_data
    return found.get("endpoint") or ENDPOINTS[0], found.get("model") or ""


def _show(
    request: Request,
    form: NewBatch,
    file: File | None,
    chosen: dict[str, Any] | None = None,
    *,
    status: int,
    error: str = "",
    note: str = "",
    typed: dict[int, str] | None = None,
) -> HttpResponse:
    """The form with the result of the check. `chosen`: the endpoint and the model that the file is checked for."""
    context: dict[str, Any] = {"form": form, "error": error, "note": note, "most": create.most_bytes()}
    if file is not None and chosen is not None:
        endpoint, model = chosen.get("endpoint") or ENDPOINTS[0], chosen.get("model") or ""
        try:
            found = repair.check(file, endpoint, model, request.user)
        except FileNotFoundError:
            context["error"], status = GONE, WRONG
        else:
            context |= create.checked(found, typed or {}) | {
                "kept": file.pk,
                "ready": create.ready_token(found.ready, endpoint, model) if found.ready else "",
                "checked": {"endpoint": endpoint, "model": model},
            }
    template = "batches/new/_form.html" if request.htmx else "batches/new/index.html"
    return render(request, template, context, status=status)


@require_GET
@page(MAY)
def report(request: Request) -> HttpResponseBase:
    """Every wrong line of a file, as a download."""
    endpoint = request.GET.get("endpoint", "")
    if endpoint not in ENDPOINTS:
        raise Http404
    try:
        file = _find(request, request.GET.get("file", ""))
        found = repair.check(file, endpoint, request.GET.get("model", ""), request.user, create.WholeReport)
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
    content = create.sample_jsonl(*create.sample_model(request.GET.get("model", "")))
    return _download(iter([content]), "application/jsonl", "sample.jsonl")


@require_GET
@page(MAY)
def sample_csv(request: Request) -> HttpResponseBase:
    content = create.sample_csv(*create.sample_model(request.GET.get("model", "")))
    return _download(iter([content]), "text/csv; charset=utf-8", "sample.csv")


# Create


def _create(request: Request) -> HttpResponseBase:
    """Make a batch of the checked file, only once. A file that was not checked with these options is checked first."""
    if request.FILES.get("file") is not None:
        return check(request)
    form = NewBatch(request.viewer, request.POST)
    valid = form.is_valid()
    try:
        file = _kept(request)
    except FileNotFoundError:
        return _show(request, form, None, error=GONE, status=WRONG)
    if file is None:
        return _show(request, form, None, error="Choose a file first, or use the sample.", status=WRONG)
    if not valid:
        return _show(request, form, file, form.cleaned_data, status=WRONG)
    ready = create.ready(request.POST.get("ready", ""))
    if any(ready.get(name) != (form.cleaned_data[name] or "") for name in RECHECKED):
        if not form.cleaned_data["endpoint"]:
            return check(request)
        note = "The file was checked again for what you have chosen. Review the result, then create the batch."
        return _show(request, form, file, form.cleaned_data, note=note, status=WRONG)
    project = form.cleaned_data["project"]
    if file.status == FileStatus.AVAILABLE and file.project_id != project.pk:
        error = f"This input file belongs to the project {file.project.name}: choose that, or upload the file."
        return _show(request, form, file, form.cleaned_data, error=error, status=WRONG)
    note = "The file had to be read again. Review the result, then create the batch."
    return _made_of(request, form, ready) or _show(request, form, file, form.cleaned_data, note=note, status=WRONG)


def _made_of(request: Request, form: NewBatch, ready: dict[str, str]) -> HttpResponseBase | None:
    """None when the file is gone."""
    project, who = form.cleaned_data["project"], request.user.get_username()
    since = datetime.fromisoformat(ready["since"])
    try:
        with transaction.atomic():
            batch, is_new = submit.create_once(_usable(request), project, ready["file"], since, who, **form.options())
            if is_new:
                detail = f"{batch.endpoint}, priority {batch.priority}, {batch.completion_window}, {batch.input_file}"
                audit.record(request, "batch.create", batch.pk, detail, project=project)
    except submit.NoFile:
        return None
    if is_new:
        messages.success(request, f"{batch.pk} is created; its file is read now.")
    else:
        messages.info(request, f"{batch.pk} was created from this form already.")
    return redirect(f"/batches/{batch.pk}/")
