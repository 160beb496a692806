"""What people may do in the browser: a role is a group of permissions. A superuser may do everything."""

from typing import Any

from django.apps import apps as installed
from django.contrib.auth.models import User
from django.db.models import Q

VIEWER, OPERATOR, ADMIN = "viewer", "operator", "admin"
ROLES = (VIEWER, OPERATOR, ADMIN)

_VIEWER = (
    "batches.view_batch", "batches.view_file", "models_registry.view_model", "models_registry.view_worker",
)  # fmt: skip
_OPERATOR = (
    *_VIEWER,
    "batches.add_batch", "batches.change_batch", "batches.change_pause",
    "models_registry.add_model", "models_registry.change_model", "models_registry.delete_model",
    "models_registry.change_worker", "models_registry.use_playground",
    "accounts.view_apikey", "accounts.add_apikey", "accounts.change_apikey",
)  # fmt: skip
ADMINS_APPS = ("accounts", "auth", "batches", "configuration", "models_registry", "curation", "finetuning")
NOBODYS_APPS = ("django_q",)  # whose rows name functions that a worker calls: only the code may write them


def grant(using: str, apps: Any = installed, **signal: Any) -> None:
    """Make the roles and give them their permissions, after each migration. Permissions that somebody added to a role
    stay, except those of NOBODYS_APPS."""
    try:
        permissions = apps.get_model("auth", "Permission").objects.using(using)
        groups = apps.get_model("auth", "Group").objects.using(using)
    except LookupError:  # only some apps have been migrated so far
        return

    def named(names: tuple[str, ...]) -> Q:
        found = Q(pk=None)
        for name in names:
            app, codename = name.split(".")
            found |= Q(content_type__app_label=app, codename=codename)
        return found

    wanted = {
        VIEWER: named(_VIEWER),
        OPERATOR: named(_OPERATOR),
        ADMIN: Q(content_type__app_label__in=ADMINS_APPS),
    }
    nobodys = permissions.filter(content_type__app_label__in=NOBODYS_APPS)
    for role, which in wanted.items():
        group, _ = groups.get_or_create(name=role)
        group.permissions.remove(*nobodys)  # an earlier version gave them
        group.permissions.add(*permissions.filter(which))


def assign(user: User, role: str) -> None:
    """Give this role in place of any other. An admin may use the admin site. Raises ValueError for an unknown role."""
    if role not in ROLES:
        raise ValueError(f"{role!r} is not a role; the roles are {', '.join(ROLES)}")
    from django.contrib.auth.models import Group

    user.groups.remove(*user.groups.filter(name__in=ROLES))
    user.groups.add(Group.objects.get(name=role))
    if user.is_staff != (role == ADMIN or user.is_superuser):
        user.is_staff = not user.is_staff
        user.save(update_fields=["is_staff"])


def role_of(user: User) -> str:
    """The person's highest role, or an empty text."""
    names = set(user.groups.values_list("name", flat=True))
    return next((role for role in reversed(ROLES) if role in names), "")
