"""The viewer of a page: rights and visible projects. Plain values, which many people can share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from django.contrib.sessions.backends.base import SessionBase
from django.db.models import QuerySet

from vbs.accounts.models import Project

CHOSEN = "project"  # in the session: the key of the chosen project


@dataclass(frozen=True)
class Viewer:
    """What people have in common to whom a page shows the same.

    rights: permissions as `app.codename`. projects: the keys of the visible projects, None for all. project: the chosen
    project, or None for all visible ones.
    """

    rights: frozenset[str]
    projects: frozenset[int] | None
    project: int | None = None

    def may(self, permission: str) -> bool:
        return permission in self.rights

    def sees(self, project: int) -> bool:
        return self.projects is None or project in self.projects

    @property
    def has_no_project(self) -> bool:
        return self.projects is not None and not self.projects

    @property
    def perms(self) -> Mapping[str, Mapping[str, bool]]:
        """For templates: perms.app.codename."""
        found: dict[str, dict[str, bool]] = {}
        for name in self.rights:
            app, _, codename = name.partition(".")
            found.setdefault(app, {})[codename] = True
        return found

    def own(self, rows: QuerySet[Any], field: str = "project") -> QuerySet[Any]:
        """The rows of the chosen project, or of all visible ones."""
        if self.project is not None:
            return rows.filter(**{field: self.project})
        return rows if self.projects is None else rows.filter(**{f"{field}__in": self.projects})

    def all_own(self, rows: QuerySet[Any], field: str = "project") -> QuerySet[Any]:
        """The rows of all visible projects, whichever is chosen: for objects that are asked for by id."""
        return rows if self.projects is None else rows.filter(**{f"{field}__in": self.projects})


def viewer_of(user: User, session: SessionBase) -> Viewer:
    rights = frozenset(user.get_all_permissions())
    if user.is_superuser or "accounts.view_project" in rights:
        seen = None
    else:
        seen = frozenset(Project.objects.filter(members=user).values_list("pk", flat=True))
    chosen = session.get(CHOSEN)
    if not isinstance(chosen, int) or (seen is not None and chosen not in seen):
        chosen = None
    return Viewer(rights, seen, chosen)


def choices(viewer: Viewer) -> list[Project]:
    """The projects that can be chosen."""
    return list(viewer.all_own(Project.objects.all(), "pk"))
