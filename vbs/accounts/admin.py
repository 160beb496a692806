"""People, projects and keys in the admin."""

from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest

from vbs.accounts import people
from vbs.accounts.models import ApiKey, KeptAnswer, Project
from vbs.admin.base import ReadOnlyAdmin
from vbs.admin.site import Audited

admin.site.unregister([User, Group])


@admin.register(User)
class PersonAdmin(Audited, UserAdmin):
    """The same rule as on the pages of people: nobody gives rights that they do not have, or changes an account that
    has more."""

    audited_fields = ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")
    GIVES_MORE = ("is_superuser", "is_staff", "groups", "user_permissions")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fields = super().get_readonly_fields(request, obj)
        return fields if _is_superuser(request) else (*fields, *self.GIVES_MORE)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and _above(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_superuser(request) and super().has_delete_permission(request, obj)


@admin.register(Group)
class RoleAdmin(Audited, GroupAdmin):
    """Only superusers change what a role may do."""

    audited_fields = ("permissions",)

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
class ProjectAdmin(Audited):
    """Members see a project in the browser. One with files or batches cannot be deleted: their bytes would stay."""

    list_display = ["name", "people", "keys_in_use", "created_at"]
    search_fields = ["name", "members__username"]
    fields = ["name", "members", "created_at"]
    readonly_fields = ["created_at"]
    filter_horizontal = ["members"]
    audited_fields = ("members",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Project]:
        members = Project.members.through.objects.filter(project=OuterRef("pk"))
        keys = ApiKey.objects.usable().filter(project=OuterRef("pk"))
        return super().get_queryset(request).annotate(people=_count(members), keys_in_use=_count(keys))

    @admin.display(description="members", ordering="people")
    def people(self, project: Project) -> int:
        return int(vars(project)["people"])

    @admin.display(description="keys in use", ordering="keys_in_use")
    def keys_in_use(self, project: Project) -> int:
        return int(vars(project)["keys_in_use"])

    def has_delete_permission(self, request: HttpRequest, obj: Project | None = None) -> bool:
        """Only one at a time, and only an empty one."""
        if obj is None or not super().has_delete_permission(request, obj):
            return False
        owned = ("files", "uploads", "batches")
        return not any(getattr(obj, name).exists() for name in owned)


def _count(rows: QuerySet[Any]) -> Coalesce:
    """How many of these rows belong to each project."""
    counted = rows.order_by().values("project").annotate(count=Count("*")).values("count")
    return Coalesce(Subquery(counted), 0)


@admin.register(ApiKey)
class ApiKeyAdmin(Audited):
    """A key made here shows its secret once, in the message after saving."""

    list_display = ["name", "prefix", "project", "operator", "created_at", "expires_at", "last_used_at", "revoked_at"]
    list_filter = ["operator", ("revoked_at", admin.EmptyFieldListFilter), "project"]
    list_select_related = ["project"]
    search_fields = ["name", "prefix", "project__name"]
    fields = ["project", "name", "operator", "prefix", "created_at", "expires_at", "last_used_at", "revoked_at"]
    readonly_fields = ["prefix", "created_at", "last_used_at", "revoked_at"]
    actions = ["revoke"]
    audited_fields = ("operator", "expires_at")

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> list[str]:
        """What a key may do is decided when it is made: its holder must not get more rights later."""
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
            self.do(request, key, ApiKey.revoke)
        messages.info(request, "The keys are revoked; they stop working at once.")


@admin.register(KeptAnswer)
class KeptAnswerAdmin(ReadOnlyAdmin):
    list_display = ["id", "project", "status", "created_at"]
    list_select_related = ["project"]
    list_filter = ["status"]
    ordering = ["-created_at"]
