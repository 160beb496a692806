"""What the page of a new batch shows for each way in: the form, what was read, what is wrong, and what it will take."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.models import User

from batches.api.serializers import ENDPOINTS
from batches.intake import repair
from batches.intake.repair import Checked
from batches.models import File
from batches.pages.new import estimate, page, preview, samples, table
from batches.pages.new.forms import FORMS, PROMPTS, TABLE, WAYS, NewBatch, NewPrompts, NewTable
from batches.pages.new.preview import Preview
from vbs.pages.viewer import Viewer


@dataclass(frozen=True)
class Sent:
    """What is shown, and to whom. data: what a browser has sent, None when the form is new. initial: what is filled in
    then. file: the file that came before. typed: lines as they were corrected, when they could not be taken so."""

    viewer: Viewer
    user: User
    way: str
    data: Mapping[str, Any] | None = None
    initial: Mapping[str, Any] | None = None
    file: File | None = None
    typed: Mapping[int, str] | None = None

    @property
    def given(self) -> Mapping[str, Any]:
        return self.data if self.data is not None else self.initial or {}

    def form(self, **options: Any) -> Any:
        kind = FORMS.get(self.way, NewTable)
        form = kind(self.viewer, self.data, initial=dict(self.initial or {}), **options)
        if form.is_bound:
            form.is_valid()
        return form


def context(sent: Sent, found: Checked | None = None) -> dict[str, Any]:
    """found: the result of a check, if there was one; a batch file is checked anyway. Raises FileNotFoundError."""
    shown: dict[str, Any] = {
        "ways": WAYS.items(),
        "file": sent.file,
        "kept": sent.file.pk if sent.file else "",
        "most": page.most_bytes(),
        "sample_model": samples.sample_model()[0],
        "chosen_model": sent.given.get("model", ""),
        "address": _address(sent),
    }
    if sent.way == PROMPTS:
        return shown | _prompts(sent, found)
    if sent.file is None:
        return shown | {"form": sent.form()}
    return shown | (_table if sent.way == TABLE else _file)(sent, sent.file, found)


def _address(sent: Sent) -> str:
    """The address at which the page shows the same file again."""
    query = {"file": sent.file.pk} if sent.file else {"way": sent.way}
    query |= {name: value for name, value in sent.given.items() if name.startswith(table.CHOICE) and value}
    return urlencode(query)


def _file(sent: Sent, file: File, found: Checked | None) -> dict[str, Any]:
    form: NewBatch = sent.form()
    endpoint, model = form.chosen("endpoint") or ENDPOINTS[0], form.chosen("model") or ""
    found = found or repair.check(file, endpoint, model, sent.user)
    shown = {"form": form} | page.checked(found, sent.typed or {})
    if not found.ready:
        return shown | {"blocked": "Correct the file first."}
    shown["ready"] = page.ready_token(found.ready, endpoint, model)
    if project := form.chosen_project:
        options = form.options() | {"endpoint": endpoint}
        shown["estimate"] = estimate.of(project, options, estimate.first_bodies(file), found.requests)
    return shown


def _table(sent: Sent, file: File, found: Checked | None) -> dict[str, Any]:
    looked = table.look(file, sent.given)
    form: NewTable = sent.form(table=looked)
    shown = {"form": form, "table": looked}
    if looked.why:
        return shown
    shown["preview"] = preview.of(form, looked.first, looked.count, looked.headings)
    return shown | (page.checked(found, sent.typed or {}) if found else {})


def _prompts(sent: Sent, found: Checked | None) -> dict[str, Any]:
    form: NewPrompts = sent.form()
    rows = preview.typed_rows(form.chosen("prompts") or "")
    shown = {"form": form, "preview": preview.of(form, rows, len(rows), preview.TYPED)}
    return shown | (page.checked(found, {}) | {"unit": "prompt"} if found else {})


def preview_of(sent: Sent) -> Preview:
    """Raises FileNotFoundError."""
    if sent.way == PROMPTS:
        found: Preview = _prompts(sent, None)["preview"]
        return found
    if sent.file is None or not repair.is_table(sent.file):
        raise FileNotFoundError
    return _table(sent, sent.file, None).get("preview") or Preview("The table cannot be read this way.", is_error=True)
