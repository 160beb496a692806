"""Who may sign in: accounts, their roles and projects. Nobody gives, or takes over, more than they have themselves.

Each function that changes an account takes who asks for it and raises Refused, with words for them.
"""

import secrets
from collections.abc import Iterable

from django.contrib.auth.models import Group, User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from vbs.accounts import roles
from vbs.accounts.models import Project

GENERATED_BYTES = 15  # 20 characters


class Refused(Exception):
    """This is not to be done. field: of the form, where it is about one."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


def make(name: str, password: str, role: str, projects: Iterable[Project] = ()) -> tuple[User, str]:
    """A new account, and its password where one was generated. Raises Refused: the name is taken, the password weak."""
    user = User(username=User.normalize_username(name))
    generated = _set_password(user, password)
    try:
        with transaction.atomic():
            user.save()
            roles.assign(user, role)
            user.projects.set(projects)
    except IntegrityError:
        raise Refused(f"There is somebody called “{name}” already: choose another name.", "name") from None
    return user, generated


def reset_password(actor: User, pk: int, password: str) -> tuple[User, str]:
    """The account, and its password where one was generated. Whoever is signed in as it is signed out."""
    with transaction.atomic():
        user = _locked(actor, pk)
        generated = _set_password(user, password)
        user.save(update_fields=["password"])
    return user, generated


def set_role(actor: User, pk: int, role: str) -> User:
    with transaction.atomic():
        user = _locked(actor, pk)
        if user.pk == actor.pk:
            raise Refused("Your own role is for somebody else to change, so that an admin is always left.", "role")
        if role not in grantable(actor):
            raise Refused(f"You cannot give the role {role}: it may do more than you.", "role")
        roles.assign(user, role)
    return user


def set_active(actor: User, pk: int, active: bool) -> User:
    """Signing in is possible, or not any more: their sessions end, their keys and batches stay."""
    with transaction.atomic():
        user = _locked(actor, pk)
        if not active and user.pk == actor.pk:
            raise Refused("You cannot deactivate yourself: ask another admin.")
        if not active and user.is_superuser and not User.objects.filter(
            is_superuser=True, is_active=True
        ).exclude(pk=user.pk).exists():  # fmt: skip
            raise Refused(f"{user.username} is the last superuser and stays.")
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
    """In words: what came and what went, or nothing."""
    old, new = set(before), set(after)
    came = [f"+ {name}" for name in sorted(new - old)]
    return ", ".join(came + [f"− {name}" for name in sorted(old - new)])


def may_change(actor: User, user: User) -> bool:
    """A superuser may change everybody, others those who may do no more than themselves."""
    if actor.is_superuser:
        return True
    return not user.is_superuser and _rights(user) <= actor.get_all_permissions()


def grantable(actor: User) -> list[str]:
    """The roles that may do no more than who asks."""
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


def _rights(user: User) -> set[str]:
    """As they were if the account were active: those of one that is not are empty, and it may be made so again."""
    active = User.objects.get(pk=user.pk)
    active.is_active = True
    return active.get_all_permissions()


def _locked(actor: User, pk: int) -> User:
    """The account, held until the end of the transaction. Two who change each other come one after the other.

    All superusers are held with it, so that one of them is always left. Raises User.DoesNotExist, Refused.
    """
    held = User.objects.filter(pk__in={actor.pk, pk}) | User.objects.filter(is_superuser=True)
    found = {user.pk: user for user in held.select_for_update(of=("self",)).order_by("pk")}
    if pk not in found:
        raise User.DoesNotExist
    if actor.pk not in found or not found[actor.pk].is_active:
        raise Refused("Your account is not active any more.")
    if not may_change(actor, found[pk]):
        raise Refused(f"{found[pk].username} may do more than you: only a superuser may change that account.")
    return found[pk]


def _set_password(user: User, password: str) -> str:
    generated = "" if password else secrets.token_urlsafe(GENERATED_BYTES)
    try:
        validate_password(password or generated, user)
    except ValidationError as error:
        raise Refused(" ".join(error.messages), "password") from None
    user.set_password(password or generated)
    return generated
