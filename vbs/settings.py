"""Django's settings, and all settings of vbs: each is declared here once.

A declaration reads a setting from the environment and checks it. The table in docs/settings.md and the page of settings
are made from the declarations. Other variables are read where they are needed: those of vLLM and CUDA by the engine,
the marks of our own processes (VBS_INSTANCE, Q_CLUSTER_NAME) by these.
"""

import os
from pathlib import Path
from typing import Any

from environs import EnvError, validate
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from vbs import logs
from vbs.configuration import windows
from vbs.configuration.declared import about, folder, one_of, several, switch, text, whole
from vbs.database import timeouts
from vbs.places import BASE_DIR, DATA_DIR
from vbs.run import postgres, private

about("Database and files")
VBS_DATA_DIR: Path = folder("VBS_DATA_DIR", DATA_DIR, "Where everything that must survive lives", said="`data`")
RUN_DIR = VBS_DATA_DIR / "run"
LOG_DIR = VBS_DATA_DIR / "logs"
TMP_DIR = VBS_DATA_DIR / "tmp"
MODELS_DIR = VBS_DATA_DIR / "models"
private.close(VBS_DATA_DIR)

about("Web")
VBS_HOST: str = text("VBS_HOST", "127.0.0.1", "Address to listen on")
VBS_PORT: int = whole("VBS_PORT", 4080, "Port to listen on", 1, 65535)
VBS_API_AUTH: str = one_of(
    "VBS_API_AUTH",
    "required",
    "`open` serves one project without keys; refused unless the host is loopback",
    ["required", "open"],
)
ALLOWED_HOSTS: list[str] = several(
    "VBS_ALLOWED_HOSTS",
    ["localhost", "127.0.0.1", "[::1]", VBS_HOST],
    "Names that clients may address the server by",
    said="loopback, `VBS_HOST`",
    attribute="ALLOWED_HOSTS",
)
CSRF_TRUSTED_ORIGINS: list[str] = several(
    "VBS_TRUSTED_ORIGINS",
    [],
    "Origins that may send forms, e.g. `https://vbs.example.org` behind a proxy",
    attribute="CSRF_TRUSTED_ORIGINS",
)
VBS_SECURE_COOKIES: bool = switch(
    "VBS_SECURE_COOKIES",
    bool(CSRF_TRUSTED_ORIGINS) and all(one.startswith("https://") for one in CSRF_TRUSTED_ORIGINS),
    "Cookies go over TLS only; on where `VBS_TRUSTED_ORIGINS` are all `https://`",
    said="as the origins above",
)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = VBS_SECURE_COOKIES
SECRET_KEY: str = text(
    "VBS_SECRET_KEY",
    "",
    "Signs sessions and tasks",
    said="made, kept in the data folder",
    attribute="SECRET_KEY",
    secret=True,
) or private.key(VBS_DATA_DIR / "secret_key")
DEBUG: bool = switch("VBS_DEBUG", False, "Django's debug mode; never where others reach it", attribute="DEBUG")

about("Logs")
VBS_LOG_FORMAT: str = one_of("VBS_LOG_FORMAT", "human", "`json`: an object a line", ["human", "json"])
VBS_LOG_LEVEL: str = one_of(
    "VBS_LOG_LEVEL", "INFO", "`DEBUG` … `CRITICAL`", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
)
SENTRY_DSN: str = text("SENTRY_DSN", "", "Errors go there when it is set", secret=True)

about("Database and files")
DATABASE_URL: str = text(
    "DATABASE_URL", "", "A PostgreSQL server; without it one is started in the data folder", secret=True
)
VBS_DB_POOL: bool = switch(
    "VBS_DB_POOL", False, "Keep connections across requests; `make up` sets it for the web process"
)
# boto3 finds the credentials.
VBS_STORAGE: str = text("VBS_STORAGE", "", "`s3://bucket/prefix` for files; without it they are in the data folder")
VBS_S3_ENDPOINT: str = text("VBS_S3_ENDPOINT", "", "URL of an S3 server that is not AWS")

about("Limits")
VBS_MAX_FILE_MB: int = whole("VBS_MAX_FILE_MB", 512, "Largest file in one upload")
VBS_MAX_BATCH_MB: int = whole("VBS_MAX_BATCH_MB", 200, "Largest input file of a batch")
VBS_MAX_SPOOL_MB: int = whole(
    "VBS_MAX_SPOOL_MB", 4096, "Disk space for bodies of requests on their way in; one address may have half of it"
)
VBS_MAX_CONNECTIONS: int = whole(
    "VBS_MAX_CONNECTIONS", 1000, "Connections at once; fewer where the system allows too few open files"
)
VBS_MAX_CONNECTIONS_PER_ADDRESS: int = whole(
    "VBS_MAX_CONNECTIONS_PER_ADDRESS",
    256,
    "Connections at once from one address; behind a proxy, all clients have its address",
)
VBS_MAX_STREAMS: int = whole("VBS_MAX_STREAMS", 16, "Downloads that one key, or one person, may have running at once")

about("Direct requests")
VBS_MAX_INTERACTIVE: int = whole(
    "VBS_MAX_INTERACTIVE",
    128,
    "Requests that one project may have answered directly at once, by one web process",
    most=100_000,
    changes="Holds for requests that come from now on.",
)

about("Limits")
VBS_MAX_BATCH_REQUESTS: int = whole(
    "VBS_MAX_BATCH_REQUESTS",
    50_000,
    "Most requests in a batch",
    most=10_000_000,
    changes="Holds for batches that are read from now on.",
)
VBS_MAX_LINE_MB: int = whole("VBS_MAX_LINE_MB", 16, "Longest line of an input file")
VBS_MAX_ANSWER_MB: int = whole(
    "VBS_MAX_ANSWER_MB", 64, "Largest answer of an engine; a larger one fails its request", 1, 900
)

about("Batches")
VBS_COMPLETION_WINDOWS: list[str] = several(
    "VBS_COMPLETION_WINDOWS",
    ["24h"],
    "Windows that clients may ask for, e.g. `1h,24h,7d`",
    parse=windows.several,
    changes="With commas between them. The first one is taken where a client names none. "
    "Batches that are there keep theirs.",
)
VBS_RETENTION_DAYS: int = whole(
    "VBS_RETENTION_DAYS",
    30,
    "How long request rows are kept after a batch has ended",
    most=36_500,
    changes="Lowering it permanently deletes the rows of older batches within a minute. Their output files stay.",
)

about("Workers and engines")
VBS_IO_WORKERS: int = whole("VBS_IO_WORKERS", 2, "Processes for validation, output files, downloads and upkeep")
VBS_LEASE_SECONDS: int = whole(
    "VBS_LEASE_SECONDS", 30, "After this long without a sign of life a batch is taken from its worker", 5
)
VBS_MAX_WAIT_MINUTES: int = whole(
    "VBS_MAX_WAIT_MINUTES",
    30,
    "After this long a batch goes before those of the loaded model",
    most=10_000_000,
    changes="Holds from the next decision on, what the GPU does next.",
)
VBS_ENGINE_START_SECONDS: int = whole("VBS_ENGINE_START_SECONDS", 1800, "How long a model may take to load", 10)
VBS_REQUEST_SECONDS: int = whole(
    "VBS_REQUEST_SECONDS",
    3600,
    "How long one request may take on the engine",
    most=365 * windows.DAY,
    changes="A batch that runs keeps the limit with which its turn began.",
)
VBS_REQUEST_ATTEMPTS: int = whole(
    "VBS_REQUEST_ATTEMPTS",
    4,
    "How often a request is sent at most, after 5xx or a lost connection; 429 of a remote server does not count",
    most=1000,
    changes="A batch that runs keeps the limit with which its turn began.",
)

about("Direct requests")
VBS_INTERACTIVE: str = one_of(
    "VBS_INTERACTIVE",
    "loaded",
    "Which models answer requests to `/v1/chat/completions` and the like: `loaded` ones, any after it was loaded "
    "(`swap`), none (`off`)",
    ["off", "loaded", "swap"],
    changes="Holds for requests that come from now on. Remote models count as loaded.",
)
VBS_INTERACTIVE_SWAP_SECONDS: int = whole(
    "VBS_INTERACTIVE_SWAP_SECONDS", 120, "With `swap`: how long a request waits for its model to be loaded"
)

about("Workers and engines")
VBS_DEFAULT_MAX_TOKENS: int = whole(
    "VBS_DEFAULT_MAX_TOKENS",
    0,
    "Longest answer to a request that sets no limit, in tokens; 0: to the end of the model's context",
    0,
    10_000_000,
    changes="0 sets no limit: such an answer may run to the end of the model's context. A batch that runs keeps the "
    "limit with which its turn began.",
)
VBS_WORKER_NAME: str = text(
    "VBS_WORKER_NAME", "gpu", "Tells GPU workers on one machine apart", validate.Regexp(r"^[a-z0-9-]{1,20}$")
)
VBS_WORKER_URL: str = text(
    "VBS_WORKER_URL",
    "",
    "Where web processes on other hosts reach this GPU worker's engine, e.g. `http://10.0.0.7:4090`; it listens on "
    "that port, and wants a key that is derived from the secret key",
    lambda url: url == "" or validate.URL(schemes={"http"}, require_tld=False)(url),
)

about("Remote servers")
VBS_REMOTE_KEY: str = text(
    "VBS_REMOTE_KEY", "", "Bearer key for remote engines, sent to those of `VBS_REMOTE_ORIGINS` alone", secret=True
)
VBS_REMOTE_ORIGINS: list[str] = several(
    "VBS_REMOTE_ORIGINS",
    [],
    "Remote servers that get the key, e.g. `https://vllm.example.org,http://10.0.0.7:8000`",
)

about("Models")
VBS_HUB_URL: str = text(
    "VBS_HUB_URL", "https://huggingface.co", "The hub that models are fetched from", validate.URL(require_tld=False)
)
HF_TOKEN: str = text("HF_TOKEN", "", "Token of the hub, for models that need one", secret=True)
VBS_DOWNLOADS: int = whole(
    "VBS_DOWNLOADS",
    1,
    "Models that are fetched at once; fewer than `VBS_IO_WORKERS`, so that batches are still validated",
)
VBS_MODEL_ROOTS: list[str] = several(
    "VBS_MODEL_ROOTS",
    [],
    "Folders that models may be in, comma-separated; unset: any on the command line, else only `data/models`",
)

about("Remote servers")
VBS_PRIVATE_URLS: bool = switch(
    "VBS_PRIVATE_URLS", False, "Remote servers that were added by API or page may have private addresses"
)

about("Models")
VBS_MEDIA_DOMAINS: list[str] = several(
    "VBS_MEDIA_DOMAINS",
    [],
    "Hosts that images and sounds in requests may be fetched from, comma-separated; unset: only `data:`",
)

about("GPU")
VBS_GPU_MAX_CELSIUS: int = whole(
    "VBS_GPU_MAX_CELSIUS",
    90,
    "New work waits while the GPU is hotter",
    most=1000,
    changes="In °C. Below the temperature of an idle GPU, no work starts at all.",
)
VBS_GPU_MAX_USED_PERCENT: int = whole(
    "VBS_GPU_MAX_USED_PERCENT",
    50,
    "No model is loaded while others use more than this of the GPU's memory",
    most=100,
    changes="In percent. 100 switches this check off.",
)
VBS_SLEEP_MODE: bool = switch(
    "VBS_SLEEP_MODE", False, "On a GPU, models that make room sleep in main memory and wake in seconds"
)

about("Models")
VBS_TRUST_REMOTE_CODE: bool = switch(
    "VBS_TRUST_REMOTE_CODE",
    False,
    "Admins may allow code that comes with a model to run here (`trust_remote_code`)",
)
VBS_SCRIPTED_ENGINE: bool = switch(
    "VBS_SCRIPTED_ENGINE",
    False,
    "Models of `scripted:` may be added and run: an engine for tests and demos, which requests can stop",
)
VBS_CURRENCY: str = text(
    "VBS_CURRENCY", "USD", "Currency of the models' prices: three letters", validate.Regexp(r"^[A-Z]{3}$")
)


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
        database = {"NAME": "postgres", "USER": "postgres", "HOST": folder, "PORT": "5432"}  # and no PGPORT of the user
        options = {}
    role = "web" if VBS_DB_POOL else "worker" if "Q_CLUSTER_NAME" in os.environ else "command"
    # The options in DATABASE_URL come last, and win.
    options["options"] = f"{timeouts.OF[role].options()} {options.get('options', '')}".strip()
    if VBS_DB_POOL:  # only the web process has a pool: each of its requests has its own thread
        options["pool"] = {"min_size": 2, "max_size": 16, "timeout": 10}
    else:
        database["CONN_MAX_AGE"] = 300
    return database | {"ENGINE": "django.db.backends.postgresql", "OPTIONS": options, "CONN_HEALTH_CHECKS": True}


DATABASES = {"default": _database()}


def _channel_layer() -> dict[str, Any]:
    """The same database, with its own connections."""
    database = DATABASES["default"]
    options = {name: value for name, value in database["OPTIONS"].items() if name != "pool"}
    kept = {"TIME_ZONE": None, "CONN_MAX_AGE": 0, "AUTOCOMMIT": True, "PASSWORD": "", "PORT": ""}
    pool = {"min_size": 1, "max_size": 2, "timeout": 10}
    return kept | database | {"OPTIONS": options, "CONN_MAX_AGE": 0, "PSYCOPG_OPTIONS": pool, "group_expiry": 120}


CHANNEL_LAYERS = {
    "default": {"BACKEND": "channels_postgres.core.PostgresChannelLayer", "CONFIG": _channel_layer()},
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"


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
FILE_UPLOAD_TEMP_DIR = TMP_DIR  # on the disk of the files, so that a file is taken in by a rename


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

# For JSON bodies, which are small. Files come as multipart, with the limits above.
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024

LOGGING = logs.config(VBS_LOG_FORMAT, VBS_LOG_LEVEL)
logs.init_sentry(SENTRY_DSN)

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["vbs.openai.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["vbs.openai.authentication.HasProject"],
    "DEFAULT_PARSER_CLASSES": ["vbs.openai.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "vbs.openai.negotiation.OneAnswer",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "vbs.openai.errors.exception_handler",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "vbs",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PUBLIC": True,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
    "SCHEMA_PATH_PREFIX": "/v1",
    "PREPROCESSING_HOOKS": ["vbs.openai.schema.only_v1"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "models_registry.api.reference.hook",
        "batches.api.reference.hook",
        "vbs.openai.docs.finish",
    ],
}

# The io cluster is the default one; the gpu cluster has one worker, which may have children (the engine).
# A task is a wake-up: broker.py hands it out once, and the upkeep finds what was left undone.
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
