"""Django settings, and every variable of ours: each is read and checked here, and has a row in the README's table.

What is not ours is read where it matters: vLLM's and CUDA's variables by the engine, the marks of our own processes
(VBS_INSTANCE, Q_CLUSTER_NAME) by those.
"""

import os
import secrets
from pathlib import Path
from typing import Any

from environs import Env, EnvError, validate
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from vbs import logs
from vbs.configuration.limits import WHOLE
from vbs.database import timeouts
from vbs.places import BASE_DIR, DATA_DIR
from vbs.run import postgres, private

env = Env()
VBS_GIVEN = frozenset(name for name, value in os.environ.items() if value)  # for the page that says where one is from

# Where everything that must survive lives: database, files, models, logs.
VBS_DATA_DIR: Path = env.path("VBS_DATA_DIR", DATA_DIR).absolute()
RUN_DIR = VBS_DATA_DIR / "run"
LOG_DIR = VBS_DATA_DIR / "logs"
TMP_DIR = VBS_DATA_DIR / "tmp"
MODELS_DIR = VBS_DATA_DIR / "models"
private.close(VBS_DATA_DIR)

# Web
VBS_HOST: str = env.str("VBS_HOST", "127.0.0.1")
VBS_PORT: int = env.int("VBS_PORT", 4080, validate=validate.Range(1, 65535))
VBS_API_AUTH: str = env.str("VBS_API_AUTH", "required", validate=validate.OneOf(["required", "open"]))
DEBUG: bool = env.bool("VBS_DEBUG", False)
ALLOWED_HOSTS: list[str] = env.list("VBS_ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]", VBS_HOST])
CSRF_TRUSTED_ORIGINS: list[str] = env.list("VBS_TRUSTED_ORIGINS", [])
VBS_SECURE_COOKIES: bool = env.bool(
    "VBS_SECURE_COOKIES", bool(CSRF_TRUSTED_ORIGINS) and all(one.startswith("https://") for one in CSRF_TRUSTED_ORIGINS)
)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = VBS_SECURE_COOKIES

# Logs
VBS_LOG_FORMAT: str = env.str("VBS_LOG_FORMAT", "human", validate=validate.OneOf(["human", "json"]))
VBS_LOG_LEVEL: str = env.str(
    "VBS_LOG_LEVEL", "INFO", validate=validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
)
SENTRY_DSN: str = env.str("SENTRY_DSN", "")

# Limits
VBS_MAX_FILE_MB: int = env.int("VBS_MAX_FILE_MB", 512, validate=validate.Range(1))
VBS_MAX_BATCH_MB: int = env.int("VBS_MAX_BATCH_MB", 200, validate=validate.Range(1))
VBS_MAX_SPOOL_MB: int = env.int("VBS_MAX_SPOOL_MB", 4096, validate=validate.Range(1))
VBS_MAX_CONNECTIONS: int = env.int("VBS_MAX_CONNECTIONS", 1000, validate=validate.Range(1))
VBS_MAX_CONNECTIONS_PER_ADDRESS: int = env.int("VBS_MAX_CONNECTIONS_PER_ADDRESS", 256, validate=validate.Range(1))
VBS_MAX_STREAMS: int = env.int("VBS_MAX_STREAMS", 16, validate=validate.Range(1))
VBS_MAX_BATCH_REQUESTS: int = env.int("VBS_MAX_BATCH_REQUESTS", 50_000, validate=WHOLE["VBS_MAX_BATCH_REQUESTS"])
VBS_MAX_LINE_MB: int = env.int("VBS_MAX_LINE_MB", 16, validate=validate.Range(1))
VBS_MAX_ANSWER_MB: int = env.int("VBS_MAX_ANSWER_MB", 64, validate=validate.Range(1, 900))
VBS_COMPLETION_WINDOWS: list[str] = env.list("VBS_COMPLETION_WINDOWS", ["24h"])
VBS_RETENTION_DAYS: int = env.int("VBS_RETENTION_DAYS", 30, validate=WHOLE["VBS_RETENTION_DAYS"])

# Workers and engine
VBS_IO_WORKERS: int = env.int("VBS_IO_WORKERS", 2, validate=validate.Range(1))
VBS_LEASE_SECONDS: int = env.int("VBS_LEASE_SECONDS", 30, validate=validate.Range(5))
VBS_MAX_WAIT_MINUTES: int = env.int("VBS_MAX_WAIT_MINUTES", 30, validate=WHOLE["VBS_MAX_WAIT_MINUTES"])
VBS_ENGINE_START_SECONDS: int = env.int("VBS_ENGINE_START_SECONDS", 1800, validate=validate.Range(10))
VBS_REQUEST_SECONDS: int = env.int("VBS_REQUEST_SECONDS", 3600, validate=WHOLE["VBS_REQUEST_SECONDS"])
VBS_DEFAULT_MAX_TOKENS: int = env.int("VBS_DEFAULT_MAX_TOKENS", 0, validate=WHOLE["VBS_DEFAULT_MAX_TOKENS"])
VBS_REQUEST_ATTEMPTS: int = env.int("VBS_REQUEST_ATTEMPTS", 4, validate=WHOLE["VBS_REQUEST_ATTEMPTS"])
VBS_WORKER_NAME: str = env.str("VBS_WORKER_NAME", "gpu", validate=validate.Regexp(r"^[a-z0-9-]{1,20}$"))
VBS_REMOTE_KEY: str = env.str("VBS_REMOTE_KEY", "")
VBS_REMOTE_ORIGINS: list[str] = env.list("VBS_REMOTE_ORIGINS", [])

# Models: where they come from, and when new work waits
VBS_HUB_URL: str = env.str("VBS_HUB_URL", "https://huggingface.co", validate=validate.URL(require_tld=False))
HF_TOKEN: str = env.str("HF_TOKEN", "")
VBS_DOWNLOADS: int = env.int("VBS_DOWNLOADS", 1, validate=validate.Range(1))
VBS_MODEL_ROOTS: list[str] = env.list("VBS_MODEL_ROOTS", [])
VBS_PRIVATE_URLS: bool = env.bool("VBS_PRIVATE_URLS", False)
VBS_MEDIA_DOMAINS: list[str] = env.list("VBS_MEDIA_DOMAINS", [])
VBS_GPU_MAX_CELSIUS: int = env.int("VBS_GPU_MAX_CELSIUS", 90, validate=WHOLE["VBS_GPU_MAX_CELSIUS"])
VBS_GPU_MAX_USED_PERCENT: int = env.int("VBS_GPU_MAX_USED_PERCENT", 50, validate=WHOLE["VBS_GPU_MAX_USED_PERCENT"])
VBS_SLEEP_MODE: bool = env.bool("VBS_SLEEP_MODE", False)
VBS_TRUST_REMOTE_CODE: bool = env.bool("VBS_TRUST_REMOTE_CODE", False)
VBS_SCRIPTED_ENGINE: bool = env.bool("VBS_SCRIPTED_ENGINE", False)
VBS_CURRENCY: str = env.str("VBS_CURRENCY", "USD", validate=validate.Regexp(r"^[A-Z]{3}$"))

# Database: embedded unless DATABASE_URL names a server.
DATABASE_URL: str = env.str("DATABASE_URL", "")
VBS_DB_POOL: bool = env.bool("VBS_DB_POOL", False)


def _database() -> dict[str, Any]:
    if DATABASE_URL:
        try:
            parts = conninfo_to_dict(DATABASE_URL)
        except ProgrammingError as error:
            raise EnvError(
                f"DATABASE_URL cannot be read; it looks like postgresql://user@host/name: {str(error).strip()}"
            ) from None
        keys = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
        database: dict[str, Any] = {django: str(parts.pop(libpq, "")) for libpq, django in keys.items()}
        options: dict[str, Any] = {name: value for name, value in parts.items() if value is not None}
    else:
        folder = str(postgres.data_dir(VBS_DATA_DIR))
        database = {"NAME": "postgres", "USER": "postgres", "HOST": folder, "PORT": "5432"}  # not a PGPORT of the user
        options = {}
    role = "web" if VBS_DB_POOL else "worker" if "Q_CLUSTER_NAME" in os.environ else "command"
    # What DATABASE_URL says itself comes last, and holds.
    options["options"] = f"{timeouts.OF[role].options()} {options.get('options', '')}".strip()
    if VBS_DB_POOL:  # for the web process, where each request has a thread of its own
        options["pool"] = {"min_size": 2, "max_size": 16, "timeout": 10}
    else:
        database["CONN_MAX_AGE"] = 300
    return database | {"ENGINE": "django.db.backends.postgresql", "OPTIONS": options, "CONN_HEALTH_CHECKS": True}


DATABASES = {"default": _database()}


def _channel_layer() -> dict[str, Any]:
    """The same database, with connections of its own."""
    database = DATABASES["default"]
    options = {name: value for name, value in database["OPTIONS"].items() if name != "pool"}
    kept = {"TIME_ZONE": None, "CONN_MAX_AGE": 0, "AUTOCOMMIT": True, "PASSWORD": "", "PORT": ""}
    pool = {"min_size": 1, "max_size": 2, "timeout": 10}
    return kept | database | {"OPTIONS": options, "CONN_MAX_AGE": 0, "PSYCOPG_OPTIONS": pool, "group_expiry": 120}


CHANNEL_LAYERS = {
    "default": {"BACKEND": "channels_postgres.core.PostgresChannelLayer", "CONFIG": _channel_layer()},
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Files: a folder, or the bucket that VBS_STORAGE names (s3://bucket/prefix; credentials as boto3 finds them).
VBS_STORAGE: str = env.str("VBS_STORAGE", "")
VBS_S3_ENDPOINT: str = env.str("VBS_S3_ENDPOINT", "")


def _storage() -> dict[str, Any]:
    if not VBS_STORAGE:
        return {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": VBS_DATA_DIR / "files", "base_url": None},
        }
    scheme, _, rest = VBS_STORAGE.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise EnvError(f"VBS_STORAGE is {VBS_STORAGE!r}; it must be empty or look like s3://bucket/prefix")
    options = {"bucket_name": bucket, "location": prefix, "file_overwrite": True}
    if VBS_S3_ENDPOINT:
        options["endpoint_url"] = VBS_S3_ENDPOINT
    return {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}


STORAGES = {
    "default": _storage(),
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]
FILE_UPLOAD_TEMP_DIR = TMP_DIR  # beside the files, so that taking one in is a rename


def _secret_key() -> str:
    """The given key, or one made at the first start and kept, readable by its owner only."""
    if given := env.str("VBS_SECRET_KEY", ""):
        return given
    path = VBS_DATA_DIR / "secret_key"
    if not path.exists():
        VBS_DATA_DIR.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"secret_key.{secrets.token_hex(4)}")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(48))
        try:
            path.hardlink_to(fresh)  # whoever is first wins; the others read what it wrote
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text().strip()


SECRET_KEY = _secret_key()

INSTALLED_APPS = [
    "vbs.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_q",
    "django_htmx",
    "django_prometheus",
    "channels",
    "channels_postgres",
    "vbs",
    "vbs.accounts",
    "vbs.configuration",
    "vbs.pages",
    "models_registry",
    "batches",
    "curation",
    "finetuning",
]
MIDDLEWARE = [
    "vbs.logs.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "vbs.http.streams.StreamsMiddleware",
    "vbs.pages.access.SqueezeMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "vbs.pages.access.PolicyMiddleware",
    "vbs.openai.routes.ApiRoutesMiddleware",
    "vbs.http.error_pages.ErrorPagesMiddleware",
    "vbs.http.one_thread.OneThreadMiddleware",
]
ROOT_URLCONF = "vbs.urls"
ASGI_APPLICATION = "vbs.asgi.application"
APPEND_SLASH = False
LOGIN_URL = "/login"
LOGIN_REDIRECT_URL = "/"
CSRF_FAILURE_VIEW = "vbs.http.error_pages.csrf_failure"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "vbs.pages.access.shell",
            ]
        },
    }
]
STATIC_URL = "/static/"
STATIC_ROOT = VBS_DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
USE_TZ = True
TIME_ZONE = "UTC"

# JSON bodies are small; files go through multipart and the limits above.
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024

LOGGING = logs.config(VBS_LOG_FORMAT, VBS_LOG_LEVEL)
logs.init_sentry(SENTRY_DSN)

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["vbs.accounts.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["vbs.accounts.authentication.HasProject"],
    "DEFAULT_PARSER_CLASSES": ["vbs.openai.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "vbs.openai.negotiation.OneAnswer",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "vbs.openai.errors.exception_handler",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "vbs",
    "DESCRIPTION": "The OpenAI Batch API on your own GPU, with a few extensions.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PUBLIC": True,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
    "SCHEMA_PATH_PREFIX": "/v1",
    "PREPROCESSING_HOOKS": ["vbs.openai.schema.only_v1"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}

# The io cluster is the default one; the gpu cluster has one worker, which may have children (the engine).
# Tasks are wake-ups: broker.py hands each out once, and what is left undone is found again in our own tables.
_ONE_YEAR = 365 * 86400
Q_CLUSTER = {
    "name": "io",
    "workers": VBS_IO_WORKERS,
    "broker_class": "vbs.broker.PostgresBroker",
    "orm": "default",
    "timeout": 4 * 3600,
    "retry": _ONE_YEAR + 1,
    "max_attempts": 1,
    "ack_failures": True,
    "catch_up": False,
    "save_limit": 50,
    "scheduler": False,  # a row of its table names a function to be called
    "ALT_CLUSTERS": {
        "gpu": {
            "workers": 1,
            "daemonize_workers": False,
            "recycle": _ONE_YEAR,
            "timeout": _ONE_YEAR,
            "queue_limit": 1,
        }
    },
}
