from django.contrib import admin
from django.http import HttpRequest

from models_registry.models import Alias, Model, Worker


@admin.register(Model)
class ModelAdmin(admin.ModelAdmin):
    list_display = ["name", "task", "kind", "source", "size_bytes", "context_length", "created_at"]
    list_filter = ["task", "kind"]
    search_fields = ["name", "source"]
    readonly_fields = ["created_at"]


@admin.register(Alias)
class AliasAdmin(admin.ModelAdmin):
    list_display = ["name", "model", "changed_at"]
    list_select_related = ["model"]
    search_fields = ["name", "model__name"]
    autocomplete_fields = ["model"]
    readonly_fields = ["changed_at"]


@admin.register(Worker)
class WorkerAdmin(admin.ModelAdmin):
    list_display = ["__str__", "state", "activity", "model_name", "engine_pid", "heartbeat_at"]
    list_filter = ["cluster", "hostname"]
    search_fields = ["hostname", "model_name"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Worker | None = None) -> bool:
        return False
