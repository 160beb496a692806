"""Models, downloads, operations and workers in the admin. Actions call the same functions as the API."""

from collections.abc import Callable, Iterable
from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db import models
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html

from models_registry.catalog import add, allowed, remove, rules
from models_registry.catalog.folders import ModelError
from models_registry.gpu import control, operations
from models_registry.hub import downloads as fetch
from models_registry.hub import tokens
from models_registry.models import (
    Alias,
    Download,
    HubToken,
    InteractiveUsage,
    Measurement,
    Model,
    Operation,
    OperationKind,
    Worker,
)
from vbs.admin.base import LargeAdmin, ReadOnlyAdmin
from vbs.admin.site import Audited
from vbs.configuration import audit
from vbs.pages.access import Request
from vbs.pages.viewer import viewer_of


def act_on_each(its: Audited, request: HttpRequest, rows: Iterable[Any], act: Callable[[Any], Any], done: str) -> None:
    """Do an action to each row, and show a message for each. A row that is refused does not stop the others."""
    for row in rows:
        try:
            its.do(request, row, act)
            messages.info(request, f"{row}: {done}.")
        except ModelError as error:
            messages.error(request, str(error))


class ModelForm(forms.ModelForm):
    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        if "engine_args" in data:
            data["engine_args"] = data["engine_args"] or {}
        if "pool" in data:
            data["pool"] = data["pool"] or []
        if not self.errors:
            try:
                data |= {
                    name: value
                    for name, value in rules.check_changes(self.instance, **self.changes(data)).items()
                    if name in self.fields
                }
            except ModelError as error:
                raise forms.ValidationError(str(error)) from error
        return data

    def changes(self, data: dict[str, Any]) -> dict[str, Any]:
        return {name: data[name] for name in self.changed_data if name in rules.EDITABLE}


@admin.register(Model)
class ModelAdmin(Audited):
    list_display = ["name", "state", "task", "kind", "base", "size", "is_loaded", "aliased", "context_length"]
    list_filter = ["state", "task", "kind", ("base", admin.RelatedOnlyFieldListFilter)]
    list_select_related = ["base"]
    search_fields = ["name", "source", "hub_id", "aliases__name"]
    form = ModelForm
    fields = (
        *("name", "state", "reason", "kind", "source", "hub_id", "revision", "base", "remote_name"),
        *("size_bytes", "context_length", "lora_rank", "created_at", *rules.EDITABLE),
    )
    readonly_fields = tuple(name for name in fields if name not in rules.EDITABLE)
    actions = ("fetch", "load", "unload", "test", "benchmark", "remove")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # the page of models adds them, for it reads, downloads or converts the files

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False  # the action below checks first what needs the model

    def has_remove_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("models_registry.delete_model")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        here = Worker.objects.loaded()
        adapters = [int(name.removeprefix("@adapter-")) for name in here if name.startswith("@adapter-")]
        is_loaded = models.ExpressionWrapper(
            Q(base=None, name__in=here) | Q(pk__in=adapters), output_field=models.BooleanField()
        )
        return super().get_queryset(request).prefetch_related("aliases").annotate(loaded_now=is_loaded)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        may_trust = request.user.has_perm(allowed.TRUST)
        return self.readonly_fields if may_trust else (*self.readonly_fields, "trust_remote_code")

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        changes = form.changes(form.cleaned_data)
        try:
            add.edit(obj, **changes)
        except ModelError as error:  # something changed since the form was checked
            messages.error(request, str(error))
            form.changed_data.clear()  # nothing was changed, so nothing is recorded
            return
        if "trust_remote_code" in changes:
            detail = allowed.trust_words(changes["trust_remote_code"])
            audit.record(cast(Request, request), "model.trust", obj.name, detail)

    @admin.display(description="size", ordering="size_bytes")
    def size(self, model: Model) -> str:
        return filesizeformat(model.size_bytes) if model.size_bytes else "-"

    @admin.display(description="loaded", boolean=True)
    def is_loaded(self, model: Model) -> bool:
        return bool(vars(model)["loaded_now"])

    @admin.display(description="aliases")
    def aliased(self, model: Model) -> str:
        return ", ".join(alias.name for alias in model.aliases.all())

    @admin.action(description="Fetch the files of the selected models", permissions=["change"])
    def fetch(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        act_on_each(self, request, queryset, fetch.start, "is being fetched")

    @admin.action(description="Load the selected models, one after the other", permissions=["change"])
    def load(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        self._ask(request, queryset, OperationKind.LOAD)

    @admin.action(description="Unload the selected models", permissions=["change"])
    def unload(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        self._ask(request, queryset, OperationKind.UNLOAD)

    @admin.action(description="Test the selected models with one request", permissions=["change"])
    def test(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        self._ask(request, queryset, OperationKind.TEST)

    @admin.action(description="Measure how fast the selected models are", permissions=["change"])
    def benchmark(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        self._ask(request, queryset, OperationKind.BENCHMARK)

    @admin.action(description="Remove the selected models (their files stay)", permissions=["remove"])
    def remove(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        act_on_each(self, request, queryset, remove.remove, "removed")

    def _ask(self, request: HttpRequest, queryset: QuerySet[Model], kind: OperationKind) -> None:
        asked_by = request.user.get_username()
        act_on_each(
            self, request, queryset, lambda model: operations.ask(kind, model, asked_by=asked_by), f"{kind} is queued"
        )


@admin.register(Alias)
class AliasAdmin(ReadOnlyAdmin):
    """Read only. 'manage.py model alias', the API and a model's page change aliases, and check what needs them."""

    list_display = ["name", "model", "changed_at"]
    list_select_related = ["model"]
    search_fields = ["name", "model__name"]


@admin.register(Download)
class DownloadAdmin(ReadOnlyAdmin):
    list_display = ["model", "state", "bar", "rate", "attempts", "created_at", "finished_at", "reason"]
    list_filter = ["state", "created_at"]
    list_select_related = ["model"]
    search_fields = ["model__name", "model__hub_id"]
    actions = ("pause", "resume", "cancel", "retry")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Download]:
        return super().get_queryset(request).defer("files")  # there may be thousands; the page of one reads them

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("models_registry.change_model")

    @admin.display(description="fetched")
    def bar(self, download: Download) -> str:
        return format_html(
            '<progress max="{}" value="{}"></progress> {} of {}',
            download.bytes_total or 1,
            download.bytes_done,
            filesizeformat(download.bytes_done),
            filesizeformat(download.bytes_total),
        )

    @admin.display(description="rate")
    def rate(self, download: Download) -> str:
        return f"{filesizeformat(download.bytes_per_second)}/s" if download.bytes_per_second else "-"

    @admin.action(description="Pause the selected downloads", permissions=["operate"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Download]) -> None:
        self._each(request, queryset, fetch.pause, "paused")

    @admin.action(description="Resume the selected downloads", permissions=["operate"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Download]) -> None:
        self._each(request, queryset, fetch.resume, "goes on")

    @admin.action(description="Cancel the selected downloads", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Download]) -> None:
        self._each(request, queryset, fetch.cancel, "cancelled")

    @admin.action(description="Fetch anew what failed in the selected downloads", permissions=["operate"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Download]) -> None:
        self._each(request, queryset, fetch.retry, "is fetched again")

    def _each(self, request: HttpRequest, queryset: QuerySet[Download], act: Callable[[Model], Any], done: str) -> None:
        act_on_each(self, request, [download.model for download in queryset.select_related("model")], act, done)


@admin.register(Operation)
class OperationAdmin(ReadOnlyAdmin):
    list_display = ["id", "kind", "model", "state", "priority", "asked_by", "created_at", "started_at", "finished_at"]
    list_filter = ["kind", "state", "created_at"]
    list_select_related = ["model"]
    search_fields = ["id", "model__name", "asked_by"]
    actions = ("cancel",)

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("models_registry.change_model")

    @admin.action(description="Cancel the selected operations", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Operation]) -> None:
        act_on_each(self, request, queryset.select_related("model"), _cancel, "cancelled")


def _cancel(operation: Operation) -> None:
    if not operations.cancel(operation):
        raise ModelError(f"{operation} has ended already: it is {operation.state}")


@admin.register(Measurement)
class MeasurementAdmin(ReadOnlyAdmin):
    list_display = ["at", "model", "kind", "machine", "requests", "output_rate", "load_seconds", "memory", "batch_id"]
    list_filter = ["kind", "at"]
    list_select_related = ["model"]
    search_fields = ["model__name", "machine", "=batch_id"]

    @admin.display(description="output tokens/s")
    def output_rate(self, row: Measurement) -> str:
        return f"{row.output_tokens / row.engine_seconds:,.1f}" if row.seconds else "-"

    @admin.display(description="memory", ordering="memory_bytes")
    def memory(self, row: Measurement) -> str:
        return filesizeformat(row.memory_bytes) if row.memory_bytes else "-"


@admin.register(InteractiveUsage)
class InteractiveUsageAdmin(ReadOnlyAdmin):
    list_display = ["hour", "project", "model", "requests", "failed", "input_tokens", "output_tokens"]
    list_filter = ["hour"]
    list_select_related = ["project"]
    search_fields = ["model", "project__name"]


class HubTokenForm(forms.ModelForm):
    token = forms.CharField(
        max_length=tokens.MOST_TOKEN,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text="It is kept encrypted and never shown again. A new token replaces the old one.",
    )

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        try:
            if not self.instance.pk and not tokens.NAME.fullmatch(data.get("name", "")):
                raise ModelError(
                    "The name must have 1 to 100 letters, digits or . _ -, and begin with a letter or digit."
                )
            tokens.check(data.get("token", "").strip())
        except ModelError as error:
            raise forms.ValidationError(str(error)) from None
        return data


@admin.register(HubToken)
class HubTokenAdmin(Audited):
    list_display = ["name", "created_at"]
    search_fields = ["name"]
    form = HubTokenForm
    fields = ("name", "token", "created_at")

    def get_readonly_fields(self, request: HttpRequest, obj: HubToken | None = None) -> tuple[str, ...]:
        return ("created_at", *(("name",) if obj else ()))

    def save_model(self, request: HttpRequest, obj: HubToken, form: Any, change: bool) -> None:
        kept = tokens.keep(obj.name, form.cleaned_data["token"])
        obj.pk, obj.secret = kept.pk, kept.secret


def _activity(request: HttpRequest) -> Callable[[Worker], str]:
    viewer = viewer_of(cast(User, request.user), request.session)

    @admin.display(description="activity")
    def activity(worker: Worker) -> str:
        return control.activity(worker, viewer)

    return activity


@admin.register(Worker)
class WorkerAdmin(LargeAdmin):
    """The row of a killed worker can be deleted. A worker that lives writes its row again."""

    list_filter = ["cluster", "state"]
    search_fields = ["hostname", "model_name"]
    exclude = ["activity", "work_id"]

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        return ["__str__", "cluster", "state", _activity(request), "model_name", "engine_pid", "heartbeat_at"]

    def get_readonly_fields(self, request: HttpRequest, obj: Worker | None = None) -> list[Any]:
        return [_activity(request)]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Worker | None = None) -> bool:
        return False
