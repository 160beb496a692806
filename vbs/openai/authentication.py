"""Bearer keys for the API. `request.auth` is the key, and `request.user` is its project.

In open mode, and for a command on this machine, there is no key, and the project is the default one.
"""

from typing import TYPE_CHECKING, Any

from django.conf import settings
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from vbs.accounts.models import DEFAULT_PROJECT, ApiKey, Project
from vbs.accounts.shell import shell_of
from vbs.openai.errors import Forbidden, NotAuthenticated
from vbs.pages import origins
from vbs.places import PROGRAM

if TYPE_CHECKING:  # it imports us
    from rest_framework.views import APIView


def sent_key(request: Request) -> str:
    """The key as OpenAI's clients send it, or Azure's (`api-key`); empty when there is none."""
    scheme, _, secret = get_authorization_header(request).partition(b" ")
    if scheme.lower() == b"bearer" and secret.strip():
        return secret.strip().decode("latin-1")
    return "" if scheme else request.headers.get("api-key", "").strip()


class ApiKeyAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Project, ApiKey | None]:
        if shell_of(request):
            return Project.objects.get_or_create(name=DEFAULT_PROJECT)[0], None
        secret = sent_key(request)
        if settings.VBS_API_AUTH == "open":
            if header := origins.foreign(request.headers, request.get_host(), request.is_secure()):
                raise Forbidden(
                    f"A page of another site sent this request ({header}), and this server takes requests without a "
                    "key only from programs and its own pages. Send it from a program, or set VBS_API_AUTH=required.",
                    code="cross_site",
                )
            return Project.objects.get_or_create(name=DEFAULT_PROJECT)[0], None
        if not secret:
            raise NotAuthenticated(
                "You didn't provide an API key. Send it as 'Authorization: Bearer sk-vbs-…'; "
                f"'{PROGRAM} create_api_key' makes one."
            )
        key = ApiKey.objects.authenticate(secret)
        if key is None:
            raise NotAuthenticated("Incorrect API key provided: it is unknown, expired or revoked. Send another one.")
        return key.project, key

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def project_of(request: Request) -> Project:
    """The project that sent this request."""
    project: Any = request.user
    if not isinstance(project, Project):
        raise TypeError(f"{project!r} is not a project: this view does not use ApiKeyAuthentication")
    return project


class HasProject(BasePermission):
    def has_permission(self, request: Request, view: "APIView") -> bool:
        return isinstance(request.user, Project)


def is_operator(request: Request) -> bool:
    """Whether the sender may change the registry of models. A command on this machine may. In open mode, which works on
    loopback only, everybody may."""
    if settings.VBS_API_AUTH == "open" or shell_of(request):
        return True
    return isinstance(request.auth, ApiKey) and request.auth.operator


class IsOperator(HasProject):
    """Every key may read; only an operator's key may change something."""

    free = SAFE_METHODS  # the methods that every key may use

    def has_permission(self, request: Request, view: "APIView") -> bool:
        if not super().has_permission(request, view):
            return False
        if request.method in self.free or is_operator(request):
            return True
        raise Forbidden(
            "This key may not change the registry of models. Use an operator's key: "
            f"'{PROGRAM} create_api_key --project PROJECT --name NAME --operator' makes one."
        )


class IsOperatorAlways(IsOperator):
    """Only an operator's key may read or change."""

    free = ()
