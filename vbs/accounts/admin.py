from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from vbs.accounts.models import ApiKey, Project


@admin.register(Project)
class ProjectAdmin(admin.ModelAdmin):
    list_display = ["name", "created_at"]
    search_fields = ["name"]
    readonly_fields = ["created_at"]


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):
    """A key made here shows its secret once, in the message after saving."""

    list_display = ["name", "prefix", "project", "operator", "created_at", "expires_at", "last_used_at", "revoked_at"]
    list_filter = ["project", "operator", "revoked_at"]
    list_select_related = ["project"]
    search_fields = ["name", "prefix", "project__name"]
    fields = ["project", "name", "operator", "prefix", "created_at", "expires_at", "last_used_at", "revoked_at"]
    readonly_fields = ["prefix", "created_at", "last_used_at", "revoked_at"]
    actions = ["revoke"]

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> list[str]:
        """What a key may do is settled when it is made: whoever holds it must not wake up with more."""
        return [*self.readonly_fields, *(["operator"] if obj else [])]

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        made, secret = ApiKey.objects.issue(obj.project, obj.name, obj.expires_at, obj.operator)
        obj.pk = made.pk
        obj.refresh_from_db()
        messages.warning(request, f"The key is {secret}. Copy it now: it is not shown again.")

    @admin.action(description="Revoke the selected keys", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for key in queryset:
            key.revoke()
        messages.info(request, "The keys are revoked; they stop working at once.")
