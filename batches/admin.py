"""Files, uploads and batches in the admin: to look at, and to act on through the same functions as the API."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from batches.models import Batch, BatchEvent, BatchRequest, File, Upload, UploadPart
from models_registry.admin import ReadOnlyAdmin
from vbs.openai.errors import Conflict


@admin.register(File)
class FileAdmin(ReadOnlyAdmin):
    list_display = ["id", "filename", "project", "purpose", "bytes", "created_at", "expires_at", "deleted_at"]
    list_filter = ["purpose", "project", "created_at"]
    list_select_related = ["project"]
    search_fields = ["id", "filename"]
    actions = ["hide"]

    def has_hide_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("batches.delete_file")

    @admin.action(description="Delete the selected files", permissions=["hide"])
    def hide(self, request: HttpRequest, queryset: QuerySet[File]) -> None:
        count = sum(file.delete_softly() for file in queryset)
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
    search_fields = ["id", "upload__id"]


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
    list_display = ["id", "project", "status", "bar", "priority", "model_names", "created_at", "retry_of_id"]
    list_filter = ["status", "project", "endpoint", "created_at"]
    list_select_related = ["project"]
    search_fields = ["id", "input_file_id_given", "project__name"]
    inlines = [EventInline]
    actions = ("cancel", "retry")

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

    @admin.action(description="Retry what failed in the selected batches", permissions=["operate"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Batch]) -> None:
        self._each(request, queryset, lambda batch: batch.retry(), "retried")

    def _each(self, request: HttpRequest, queryset: QuerySet[Batch], act: Any, done: str) -> None:
        for batch in queryset:
            try:
                act(batch)
                messages.info(request, f"{batch.pk}: {done}.")
            except Conflict as conflict:
                messages.error(request, f"{batch.pk}: {conflict.message}")


@admin.register(BatchRequest)
class BatchRequestAdmin(ReadOnlyAdmin):
    list_display = ["id", "batch_id", "line", "custom_id", "state", "status_code", "output_tokens", "finished_at"]
    list_filter = ["state"]
    search_fields = ["=batch__id"]
    search_help_text = "The id of a batch"


@admin.register(BatchEvent)
class BatchEventAdmin(ReadOnlyAdmin):
    list_display = ["at", "level", "batch_id", "message"]
    list_filter = ["level"]
    search_fields = ["=batch__id"]
    search_help_text = "The id of a batch"
