"""Records who did what. In a transaction the record is kept only if the action is."""

import psutil

from vbs.accounts.models import ApiKey, Project
from vbs.configuration.models import AuditEntry
from vbs.pages.access import Request


def record(
    request: Request, action: str, target: str = "", detail: str = "", project: Project | int | None = None
) -> None:
    """action: `noun.verb`, e.g. batch.cancel. target: an id or a name. Never a secret."""
    AuditEntry.objects.create(
        user=request.user,
        username=request.user.get_username(),
        action=action,
        target=target[:200].replace("\0", ""),
        detail=detail[:10_000].replace("\0", ""),
        project_id=project.pk if isinstance(project, Project) else project,
    )


def record_command(action: str, target: str = "", detail: str = "") -> None:
    """The same for `manage.py`, with the system's user who ran it."""
    username = f"manage.py, {psutil.Process().username()}"[:150]
    AuditEntry.objects.create(username=username, action=action, target=target[:200], detail=detail[:10_000])


def record_later(asked_by: str, action: str, target: str = "", detail: str = "") -> None:
    """The same for what a worker does because somebody asked for it before."""
    AuditEntry.objects.create(username=asked_by[:150], action=action, target=target[:200], detail=detail[:10_000])


def record_key(key: ApiKey | None, action: str, target: str = "", detail: str = "") -> None:
    """The same for the API, with the key that the program used. None when the API takes no keys."""
    username = f"key {key.prefix}… ({key.name})" if key else "the API, without a key"
    where = [f"By the API, with a key of the project “{key.project}”."] if key else []
    AuditEntry.objects.create(
        username=username[:150],
        action=action,
        target=target[:200].replace("\0", ""),
        detail="\n".join([*where, *([detail] if detail else [])])[:10_000].replace("\0", ""),
    )
