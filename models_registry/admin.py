from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from models_registry import importer
from models_registry.engine.spec import EngineKind
from models_registry.model_folder import ModelError
from models_registry.models import Alias, Model, Worker


class ModelForm(forms.ModelForm):
    def clean_engine_args(self) -> dict[str, Any]:
        given: Any = self.cleaned_data["engine_args"] or {}
        if not isinstance(given, dict):
            raise forms.ValidationError(f"It must be a JSON object, not {given!r}.")
        try:
            return importer.check_options(EngineKind(self.instance.kind), given)
        except ModelError as error:
            raise forms.ValidationError(str(error)) from error


@admin.register(Model)
class ModelAdmin(admin.ModelAdmin):
    list_display = ["name", "task", "kind", "source", "size_bytes", "context_length", "created_at"]
    list_filter = ["task", "kind"]
    search_fields = ["name", "source"]
    form = ModelForm
    fields = ("name", "kind", "source", "base", "task", "engine_args", "size_bytes", "context_length", "revision")
    readonly_fields = ("name", "kind", "source", "base", "size_bytes", "context_length", "revision")  # from its files
    actions = ("remove",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # 'manage.py model add' looks into the files, and fetches or converts them

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False  # the action below asks first who needs it

    def has_remove_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("models_registry.delete_model")

    @admin.action(description="Remove the selected models (their files stay)", permissions=["remove"])
    def remove(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        for model in queryset:
            try:
                importer.remove(model)
                messages.info(request, f"Model {model}: removed.")
            except ModelError as error:
                messages.error(request, f"Model {error}")


@admin.register(Alias)
class AliasAdmin(admin.ModelAdmin):
    list_display = ["name", "model", "changed_at"]
    list_select_related = ["model"]
    search_fields = ["name", "model__name"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # 'manage.py model alias' checks the name, and who needs it

    def has_change_permission(self, request: HttpRequest, obj: Alias | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Alias | None = None) -> bool:
        return False


@admin.register(Worker)
class WorkerAdmin(admin.ModelAdmin):
    list_display = ["__str__", "state", "activity", "model_name", "engine_pid", "heartbeat_at"]
    list_filter = ["cluster", "hostname"]
    search_fields = ["hostname", "model_name"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Worker | None = None) -> bool:
        return False
