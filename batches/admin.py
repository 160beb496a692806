"""Files, uploads and batches in the admin: to look at, and to act on through the same functions as the API."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from batches.models import Activity, Batch, BatchEvent, BatchRequest, File, Pause, SearchIndex, Upload, UploadPart
from vbs.admin.base import ReadOnlyAdmin
from vbs.openai.errors import Conflict
from vbs.pages.templatetags.plain import plain


@admin.register(File)
class FileAdmin(ReadOnlyAdmin):
    list_display = ["id", "filename", "project", "purpose", "bytes", "status", "created_at", "expires_at", "deleted_at"]
    list_filter = ["status", "purpose", "project", "created_at"]
    list_select_related = ["project"]
    search_fields = ["id", "filename"]
    actions = ["hide"]

    def has_hide_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("batches.delete_file")

    @admin.action(description="Delete the selected files", permissions=["hide"])
    def hide(self, request: HttpRequest, queryset: QuerySet[File]) -> None:
        count = sum(self.do(request, file, File.delete_softly) for file in queryset)
        messages.info(request, f"{count} files are deleted; batches that need their bytes keep them until they end.")


@admin.register(Upload)
class UploadAdmin(ReadOnlyAdmin):
    list_display = ["id", "filename", "project", "bytes", "status", "created_at", "expires_at"]
    list_filter = ["status", "project"]
    list_select_related = ["project"]
    search_fields = ["id", "filename"]


@admin.register(UploadPart)
class UploadPartAdmin(ReadOnlyAdmin):
    list_display = ["id", "upload_id", "bytes", "created_at"]
    search_fields = ["=id", "=upload__id"]


class EventInline(admin.TabularInline):
    model = BatchEvent
    fields = ["at", "level", "message"]
    readonly_fields = ["at", "level", "message"]
    extra = 0
    max_num = 0
    can_delete = False
    ordering = ["id"]


@admin.register(Batch)
class BatchAdmin(ReadOnlyAdmin):
    list_display = ["id", "name", "project", "status", "bar", "priority", "model_names", "created_at", "retry_of_id"]
    list_filter = ["status", "project", "hidden", "created_at"]
    list_select_related = ["project"]
    search_fields = ["id", "name", "input_file_id_given", "project__name", "created_by"]
    inlines = [EventInline]
    actions = ("cancel", "retry", "raise_priority", "lower_priority")

    @admin.display(description="done")
    def bar(self, batch: Batch) -> str:
        done = batch.completed + batch.failed
        return format_html(
            '<progress max="{}" value="{}"></progress> {} of {}, {} failed',
            batch.total or 1, done, done, batch.total, batch.failed,
        )  # fmt: skip

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("batches.change_batch")

    @admin.action(description="Cancel the selected batches", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Batch]) -> None:
        self._each(request, queryset, lambda batch: batch.request_cancel(), "asked to cancel")

    @admin.action(description="Run again what failed or was not run in the selected batches", permissions=["operate"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Batch]) -> None:
        self._each(request, queryset, lambda batch: batch.retry(), "retried")

    @admin.action(description="Raise the priority of the selected batches by 10", permissions=["operate"])
    def raise_priority(self, request: HttpRequest, queryset: QuerySet[Batch]) -> None:
        self._each(request, queryset, lambda batch: batch.set_priority(min(100, batch.priority + 10)), "more urgent")

    @admin.action(description="Lower the priority of the selected batches by 10", permissions=["operate"])
    def lower_priority(self, request: HttpRequest, queryset: QuerySet[Batch]) -> None:
        self._each(request, queryset, lambda batch: batch.set_priority(max(-100, batch.priority - 10)), "less urgent")

    def _each(self, request: HttpRequest, queryset: QuerySet[Batch], act: Any, done: str) -> None:
        for batch in queryset:
            try:
                self.do(request, batch, act)
                messages.info(request, f"{batch.pk}: {done}.")
            except Conflict as conflict:
                messages.error(request, f"{batch.pk}: {conflict.message}")


class InOneOrder(ChangeList):
    """However the address asks for it to be sorted."""

    def get_ordering_field(self, field_name: Any) -> None:
        return None


class OfBatchAdmin(ReadOnlyAdmin):
    """Rows of batches, millions of them: the newest, or those of one batch along its index. Nothing else is sorted."""

    search_fields = ["batch_id"]  # as `get_search_results` has it
    search_help_text = "The whole id of a batch"
    ordering = ("-id",)
    of_batch: tuple[str, ...] = ("batch_id", "id")  # the order within a batch
    list_per_page = 50
    sortable_by = ()

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Exactly this id: any other comparison would read the whole table."""
        wanted = _asked_for(request)
        return (queryset.filter(batch_id=wanted) if wanted else queryset), False

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        return self.of_batch if _asked_for(request) else self.ordering

    def get_list_filter(self, request: HttpRequest) -> Any:
        return super().get_list_filter(request) if _asked_for(request) else ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return InOneOrder


def _asked_for(request: HttpRequest) -> str:
    """The id of a batch, or nothing."""
    given = request.GET.get("q", "").strip()
    return "" if "\0" in given else given


@admin.register(BatchRequest)
class BatchRequestAdmin(OfBatchAdmin):
    list_display = ["id", "batch_id", "line", "custom_id", "state", "status_code", "output_tokens", "finished_at"]
    list_filter = ["state"]
    of_batch = ("batch_id", "line")
    fields = (
        *("batch", "line", "custom_id", "state", "page", "status_code", "error_code", "said", "request_id"),
        *("input_tokens", "output_tokens", "crashes", "finished_at", "offset", "length", "model_index", "prefix"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[BatchRequest]:
        return super().get_queryset(request).defer("response", "error_message")  # which may be megabytes

    @admin.display(description="prompt and answer")
    def page(self, row: BatchRequest) -> str:
        return format_html('<a href="{}">Show them</a>', reverse("batch-request", args=[row.batch_id, row.line]))

    @admin.display(description="error message")
    def said(self, row: BatchRequest) -> str:
        return plain(row.error_message) or "-"


@admin.register(SearchIndex)
class SearchIndexAdmin(OfBatchAdmin):
    list_display = ["batch_id", "requests", "is_complete"]
    list_filter = []


@admin.register(BatchEvent)
class BatchEventAdmin(OfBatchAdmin):
    list_display = ["at", "level", "batch_id", "shown"]
    list_filter = ["level"]

    @admin.display(description="message")
    def shown(self, event: BatchEvent) -> str:
        return plain(event.message)


@admin.register(Activity)
class ActivityAdmin(OfBatchAdmin):
    list_display = ["at", "batch_id", "completed", "failed", "input_tokens", "output_tokens"]
    list_filter = []
    ordering = ("-at",)
    of_batch = ("batch_id", "at")


@admin.register(Pause)
class PauseAdmin(ReadOnlyAdmin):
    """To look at: the page of the queue begins and ends one."""

    list_display = ["began_at", "ended_at", "asked_by", "ended_by", "reason"]
    list_filter = [("ended_at", admin.EmptyFieldListFilter)]
    search_fields = ["asked_by", "ended_by", "reason"]
