from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.http import HttpRequest

from vbs.accounts import people
from vbs.accounts.models import ApiKey, Project

admin.site.unregister([User, Group])


@admin.register(User)
class PersonAdmin(UserAdmin):
    """As on the pages of people: nobody gives, or takes over, more than they have themselves."""

    GIVES_MORE = ("is_superuser", "is_staff", "groups", "user_permissions")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fields = super().get_readonly_fields(request, obj)
        return fields if _is_superuser(request) else (*fields, *self.GIVES_MORE)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and _above(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_superuser(request) and super().has_delete_permission(request, obj)


@admin.register(Group)
class RoleAdmin(GroupAdmin):
    """What a role may do is for superusers to say."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return _is_superuser(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_superuser(request)


def _is_superuser(request: HttpRequest) -> bool:
    return bool(request.user.is_active and getattr(request.user, "is_superuser", False))


def _above(request: HttpRequest, user: User | None) -> bool:
    return user is None or people.may_change(cast(User, request.user), user)


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
