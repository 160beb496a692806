"""The format of log lines, their context, and what is masked in them.

Lines are for people (one line each, with the context as key=value at the end) or JSON. Code binds a context, such as
the request, the batch and the worker, and every line that is logged there has it. Text from users cannot begin a new
line, and keys are masked.
"""

import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter as BaseJsonFormatter

# Loggers that say more than an operator wants: only their warnings and errors are logged.
QUIET = (
    "django-q",
    "daphne",
    "asyncio",
    "aiohttp",
    "botocore",
    "boto3",
    "s3transfer",
    "urllib3",
    "httpx",
    "httpx2",
    "psycopg",
)

_context: ContextVar[Mapping[str, str]] = ContextVar("log_context", default=MappingProxyType({}))

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SECRET = re.compile(r"(bearer(?:\s|%20)+)[\w.~+/=-]+|(sk-vbs-)[\w-]+", re.IGNORECASE)
# C0 and C1 controls (newlines and ANSI escapes), line separators, direction overrides, lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@contextmanager
def bind(**values: object) -> Iterator[None]:
    """Add these values to every line that is logged inside the block; None removes a value."""
    merged = {**_context.get(), **values}
    token = _context.set({key: str(value) for key, value in merged.items() if value is not None})
    try:
        yield
    finally:
        _context.reset(token)


def bound() -> Mapping[str, str]:
    """The context that is bound now, to be bound again in a thread or a process."""
    return _context.get()


def request_id(given: str | None) -> str:
    """The client's id, if a log line can hold it, else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"


def mask(text: str) -> str:
    """The text without keys and bearer tokens."""
    lower = text.lower()  # a fast check: nearly no line has a key, and the access log writes a line per request
    if "bearer" in lower or "sk-vbs-" in lower:
        return _SECRET.sub(r"\1\2***", text)
    return text


def one_line(text: str) -> str:
    """The text, masked, with every character that could move a terminal's cursor as an escape sequence."""
    text = mask(text)
    if text.isascii() and text.isprintable():
        return text
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def timestamp(seconds: float) -> str:
    """ISO 8601, UTC, milliseconds."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{_second(whole)}.{milliseconds:03d}Z"


@lru_cache(maxsize=2)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


class ContextFilter(logging.Filter):
    """Adds the bound context to each record, in the thread that logs it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.context = _context.get()
        return True


class HumanFormatter(logging.Formatter):
    """`time LEVEL logger: message key=value`, then a traceback, if any, each of its lines with a mark in front."""

    def format(self, record: logging.LogRecord) -> str:
        context = "".join(f" {key}={value}" for key, value in getattr(record, "context", {}).items())
        line = f"{record.levelname:<7} {record.name}: {record.getMessage()}{context}"
        details = [self.formatException(record.exc_info)] if record.exc_info else []
        if record.stack_info:
            details.append(self.formatStack(record.stack_info))
        lines = [f"{timestamp(record.created)} {one_line(line)}"]
        lines += [f"  | {one_line(detail)}" for text in details for detail in text.splitlines()]
        return "\n".join(lines)


class JsonFormatter(BaseJsonFormatter):
    """One object per line: timestamp, level, logger, message, context, `extra`, and exc_info if there is one."""

    def __init__(self) -> None:
        super().__init__(reserved_attrs=[*RESERVED_ATTRS, "context", "request"])

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        own = {
            "timestamp": timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "context", {}),
        }
        log_data.update(own)
        super().add_fields(log_data, record, message_dict)
        log_data.update(own)  # again, so that no `extra` field replaces them

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        return mask(super().jsonify_log_record(log_data))


def config(format: str, level: str) -> dict[str, Any]:
    """Django's LOGGING: everything to standard error, `format` being human or json."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"context": {"()": ContextFilter}},
        "formatters": {"human": {"()": HumanFormatter}, "json": {"()": JsonFormatter}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "level": level, "formatter": format, "filters": ["context"]}
        },
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            **{name: {"level": "WARNING"} for name in QUIET},
            # Without these, Django's own handlers stay, which log a second time and mail admins.
            "django": {"handlers": [], "propagate": True},
            "django.server": {"handlers": [], "propagate": True},
            # A refused request is the client's mistake, and the access log has it.
            "django.request": {"level": "ERROR"},
            "django.security.DisallowedHost": {"level": "CRITICAL"},
        },
    }


@sync_and_async_middleware
def RequestIdMiddleware(get_response: Any) -> Any:  # named like the other middleware in the settings, all classes
    """Gives each request an id, the client's own if it is valid: on the request, on the answer and in log lines."""

    def begin(request: HttpRequest) -> str:
        chosen = request_id(request.headers.get("X-Request-ID"))
        request.request_id = chosen  # type: ignore[attr-defined]
        return chosen

    if iscoroutinefunction(get_response):

        async def handle_async(request: HttpRequest) -> HttpResponseBase:
            with bind(request_id=begin(request)):
                response = await get_response(request)
            response["X-Request-ID"] = request.request_id  # type: ignore[attr-defined]
            return response

        return handle_async

    def handle(request: HttpRequest) -> HttpResponseBase:
        with bind(request_id=begin(request)):
            response = get_response(request)
        response["X-Request-ID"] = request.request_id  # type: ignore[attr-defined]
        return response

    return handle


def init_sentry(dsn: str) -> None:
    """Report errors to Sentry, without people, bodies, local variables and keys. Without a DSN, report nothing."""
    if not dsn:
        return
    import sentry_sdk
    from sentry_sdk.integrations.django import DjangoIntegration
    from sentry_sdk.utils import BadDsn

    off: Any = {"mode": "off"}
    nothing: Any = {
        "user_info": False,
        "cookies": off,
        "http_headers": {"request": off},
        "http_bodies": [],
        "url_query_params": off,
        "gen_ai": {"inputs": False, "outputs": False},
        "database_query_data": False,
        "queues": False,
        "stack_frame_variables": False,
    }
    try:
        sentry_sdk.init(
            dsn=dsn,
            integrations=[DjangoIntegration()],
            auto_enabling_integrations=False,  # they would import transformers, openai and more
            data_collection=nothing,
            before_send=scrub,
            before_breadcrumb=lambda crumb, hint: _masked(crumb),
        )
    except BadDsn as error:
        raise ValueError(f"SENTRY_DSN is not a Sentry DSN ({error}); it looks like https://key@host/project") from error


def scrub(event: Any, hint: Any) -> Any:
    """A Sentry event with our context, and with nothing of the request but its method and address."""
    if request := event.get("request"):
        event["request"] = {"method": request.get("method"), "url": request.get("url", "").partition("?")[0]}
    event["tags"] = {**(event.get("tags") or {}), **_context.get()}
    return _masked(event)


def _masked(value: Any) -> Any:
    match value:
        case str():
            return mask(value)
        case Mapping():
            return {key: _masked(item) for key, item in value.items()}
        case list() | tuple():
            return [_masked(item) for item in value]
    return value
