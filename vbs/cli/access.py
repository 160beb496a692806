"""Which server a command asks, and as whom: a distant one with a key, as told; this one with a key made for the time,
or within this process.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import httpx2
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.core.management.base import CommandError, CommandParser
from django.core.signals import got_request_exception, request_finished, request_started
from django.db import DatabaseError, close_old_connections, connection
from django.utils import timezone

from vbs.accounts.models import DEFAULT_PROJECT, ApiKey, Project
from vbs.accounts.shell import ENTRY, Shell
from vbs.cli.remote import Remote, RemoteError
from vbs.places import PROGRAM
from vbs.run import stack

KEY_DAYS = 7  # should we be killed before we revoke it

R = TypeVar("R", bound=Remote)


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--url", help="the address of a distant server, such as https://gpu.example.com")
    parser.add_argument("--key", help="an API key of that server")


@contextmanager
def connected(client: type[R], url: str | None, key: str | None, project: str | None, purpose: str) -> Iterator[R]:
    """The server to ask. With `url` or `key` the database is left alone. Raises CommandError, RemoteError."""
    if project is not None and (url or key):
        raise CommandError("--project is for this server; elsewhere the key says which project it is.")
    if url or key:
        with asked(client, url, key) as remote:
            yield remote
        return
    here = _running()
    with temporary_key(project or DEFAULT_PROJECT, purpose) as secret, client(here, secret) as remote:
        yield remote


def asked(client: type[R], url: str | None, key: str | None) -> R:
    """A distant server, or with a key alone the one that runs here. Raises CommandError, RemoteError."""
    return client(url or _running(), key or "")


def _running() -> str:
    """Where the server of this machine answers. Raises CommandError when it does not."""
    here = local_url()
    with Remote(here) as remote:
        if not remote.answers():
            raise CommandError(
                f"No vbs answers at {here}: start it with '{PROGRAM} up', or set VBS_HOST and VBS_PORT to where it is."
            )
    return here


@contextmanager
def within(client: type[R], progress: Callable[[str], None]) -> Iterator[R]:
    """This server's application in this process, with all that a shell on its machine may do: no more than the database
    has to run. progress: is told each step that takes long. What nobody foresaw is raised as it is."""
    handler, shell = WSGIHandler(), Shell(progress)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if not connection.in_atomic_block:
            close_old_connections()
        path = environ["PATH_INFO"].encode().decode("latin-1")  # as WSGI has it
        return handler(environ | {"PATH_INFO": path, ENTRY: shell}, start_response)

    def unforeseen(**_: Any) -> None:
        raise

    log = logging.getLogger("django.request")  # it tells of answers, which the command does
    log.disabled = True
    got_request_exception.connect(unforeseen)
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)  # which would end a transaction around all this
    try:
        with client(f"http://{_own_name()}", transport=httpx2.WSGITransport(application)) as remote:
            yield remote
    finally:
        for signal in (request_started, request_finished):
            signal.connect(close_old_connections)
        got_request_exception.disconnect(unforeseen)
        log.disabled = False


def _own_name() -> str:
    """A name that the application takes for its own."""
    name = next((one for one in settings.ALLOWED_HOSTS if one != "*"), "localhost")
    return name.removeprefix(".")


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
            raise CommandError(f"There is no project {project!r}; '{PROGRAM} create_api_key --project …' makes one.")
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
