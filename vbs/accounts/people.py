"""Accounts, their roles and projects. Nobody gives rights that they do not have, or changes an account that has more.

A function that changes an account takes the person who asks for it as `actor`. It raises AccountRefused, with a message
for that person.
"""

import secrets
from collections.abc import Iterable

from django.contrib.auth.models import Group, User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q

from vbs.accounts import roles
from vbs.accounts.models import Project

GENERATED_BYTES = 15  # 20 characters
MOST_ADMINS = 5  # that a page names


class AccountRefused(Exception):
    """The change is not allowed. field: the form's field that the message is about, if there is one."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


def make(name: str, password: str, role: str, projects: Iterable[Project] = ()) -> tuple[User, str]:
    """Make an account. Returns it with its password, if one was generated. Raises AccountRefused for a name that is
    taken or a weak password."""
    user = User(username=User.normalize_username(name))
    generated = _set_password(user, password)
    try:
        with transaction.atomic():
            user.save()
            roles.assign(user, role)
            user.projects.set(projects)
    except IntegrityError:
        raise AccountRefused(f"There is somebody called “{name}” already: choose another name.", "name") from None
    return user, generated


def reset_password(actor: User, pk: int, password: str) -> tuple[User, str]:
    """Set a new password, which ends the account's sessions. Returns the account with its password, if one was
    generated."""
    with transaction.atomic():
        user = _locked(actor, pk)
        generated = _set_password(user, password)
        user.save(update_fields=["password"])
    return user, generated


def set_role(actor: User, pk: int, role: str) -> User:
    with transaction.atomic():
        user = _locked(actor, pk)
        if user.pk == actor.pk:
            raise AccountRefused(
                "You cannot change your own role, so that an admin is always left: ask another admin.", "role"
            )
        if role not in grantable(actor):
            raise AccountRefused(f"You cannot give the role {role}: it has rights that you do not have.", "role")
        roles.assign(user, role)
    return user


def set_active(actor: User, pk: int, active: bool) -> User:
    """Let an account sign in, or not any more: then its sessions end. Its projects' keys and batches stay."""
    with transaction.atomic():
        user = _locked(actor, pk)
        if not active and user.pk == actor.pk:
            raise AccountRefused("You cannot deactivate yourself: ask another admin.")
        if not active and user.is_superuser and not User.objects.filter(
            is_superuser=True, is_active=True
        ).exclude(pk=user.pk).exists():  # fmt: skip
            raise AccountRefused(f"{user.username} is the last superuser and cannot be deactivated.")
        user.is_active = active
        user.save(update_fields=["is_active"])
    return user


def set_projects(user: User, chosen: Iterable[Project], seen: Iterable[Project]) -> str:
    """Of the projects that are seen by who asks, these are the user's now. Returns what has changed, or nothing."""
    before = set(user.projects.all())
    after = (before - set(seen)) | set(chosen)
    user.projects.set(after)
    return differences((one.name for one in before), (one.name for one in after))


def differences(before: Iterable[str], after: Iterable[str]) -> str:
    """The names that were added (+) and removed (−), or an empty text."""
    old, new = set(before), set(after)
    came = [f"+ {name}" for name in sorted(new - old)]
    return ", ".join(came + [f"− {name}" for name in sorted(old - new)])


def may_change(actor: User, user: User) -> bool:
    """A superuser may change every account. Others may change an account that has no rights beyond their own."""
    if actor.is_superuser:
        return True
    return not user.is_superuser and _rights(user) <= actor.get_all_permissions()


def grantable(actor: User) -> list[str]:
    """The roles that have no rights beyond those of the actor."""
    if actor.is_superuser:
        return list(roles.ROLES)
    mine = actor.get_all_permissions()
    groups = Group.objects.filter(name__in=roles.ROLES).prefetch_related("permissions__content_type")
    within = {
        group.name
        for group in groups
        if all(f"{one.content_type.app_label}.{one.codename}" in mine for one in group.permissions.all())
    }
    return [role for role in roles.ROLES if role in within]


def admins() -> list[str]:
    """Names of some who can add people to projects."""
    may = User.objects.filter(Q(groups__name=roles.ADMIN) | Q(is_superuser=True), is_active=True)
    return list(may.distinct().order_by("username").values_list("username", flat=True)[:MOST_ADMINS])


def _rights(user: User) -> set[str]:
    """The rights that the account has while it is active. Django says that an inactive one has none, but somebody can
    activate it again."""
    active = User.objects.get(pk=user.pk)
    active.is_active = True
    return active.get_all_permissions()


def _locked(actor: User, pk: int) -> User:
    """The account, locked until the end of the transaction, so that two people who change each other wait in turn.

    All superusers are locked with it, so that one of them is always left. Raises User.DoesNotExist, AccountRefused.
    """
    held = User.objects.filter(pk__in={actor.pk, pk}) | User.objects.filter(is_superuser=True)
    found = {user.pk: user for user in held.select_for_update(of=("self",)).order_by("pk")}
    if pk not in found:
        raise User.DoesNotExist
    if actor.pk not in found or not found[actor.pk].is_active:
        raise AccountRefused("Your account is not active any more.")
    if not may_change(actor, found[pk]):
        raise AccountRefused(
            f"{found[pk].username} has rights that you do not have: only a superuser may change that account."
        )
    return found[pk]


def _set_password(user: User, password: str) -> str:
    generated = "" if password else secrets.token_urlsafe(GENERATED_BYTES)
    try:
        validate_password(password or generated, user)
    except ValidationError as error:
        raise AccountRefused(" ".join(error.messages), "password") from None
    user.set_password(password or generated)
    return generated
