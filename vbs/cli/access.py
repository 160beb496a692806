"""Which server a command asks, and with which key: a distant one as told, or this one with a key made for the time."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, connection
from django.utils import timezone

from vbs.accounts.models import DEFAULT_PROJECT, ApiKey, Project
from vbs.cli.remote import Remote, RemoteError
from vbs.run import stack

KEY_DAYS = 7  # should we be killed before we revoke it

R = TypeVar("R", bound=Remote)


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--url", help="a distant server, for example https://gpu.example.com")
    parser.add_argument("--key", help="an API key of that server")


@contextmanager
def connected(client: type[R], url: str | None, key: str | None, project: str | None, purpose: str) -> Iterator[R]:
    """The server to ask. With `url` or `key` the database is left alone. Raises CommandError, RemoteError."""
    if project is not None and (url or key):
        raise CommandError("--project is for this server; elsewhere the key says which project it is.")
    if url:
        with client(url, key or "") as remote:
            yield remote
        return
    here = local_url()
    with Remote(here) as remote:
        if not remote.answers():
            raise CommandError(
                f"No vbs answers at {here}: start it with 'make up', or set VBS_HOST and VBS_PORT to where it is."
            )
    if key:
        with client(here, key) as remote:
            yield remote
        return
    with temporary_key(project or DEFAULT_PROJECT, purpose) as secret, client(here, secret) as remote:
        yield remote


def local_url() -> str:
    """Of the stack that runs on our data folder, else of the host and the port that are set."""
    if found := stack.running(settings.VBS_DATA_DIR):
        return found.url
    return stack.Stack(settings.VBS_DATA_DIR, host=settings.VBS_HOST, port=settings.VBS_PORT).url


@contextmanager
def temporary_key(project: str, purpose: str) -> Iterator[str]:
    """A key that is gone at the end of the block. Those that a kill has left are removed when they have expired."""
    if settings.VBS_API_AUTH == "open" and project != DEFAULT_PROJECT:
        raise CommandError(f"With VBS_API_AUTH=open there is only the project {DEFAULT_PROJECT}, not {project!r}.")
    now = timezone.now()
    try:
        if project == DEFAULT_PROJECT:
            owner, _ = Project.objects.get_or_create(name=project)
        elif (found := Project.objects.filter(name=project).first()) is None:
            raise CommandError(f"There is no project {project!r}; 'manage.py create_api_key --project …' makes one.")
        else:
            owner = found
        ApiKey.objects.filter(project=owner, name=purpose, expires_at__lt=now).delete()
        key, secret = ApiKey.objects.issue(owner, purpose, expires_at=now + timedelta(days=KEY_DAYS))
    except DatabaseError as error:
        raise CommandError(f"The server's database does not answer: {str(error).strip().splitlines()[0]}") from error
    finally:
        connection.close()  # nobody needs it while we wait
    try:
        yield secret
    finally:
        with suppress(DatabaseError):  # then it expires
            key.delete()
        connection.close()


def explained(error: RemoteError) -> str:
    if error.status == 401:
        return f"{error} Give a key of that server with --key."
    return str(error)
