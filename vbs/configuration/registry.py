"""Every setting: what it is called, what it is when nothing is given, and what it means. The README has the same table.

Two tests hold this list to vbs/settings.py and to the README.
"""

import re
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from vbs.configuration.limits import CHECKS, WHOLE


@dataclass(frozen=True)
class Setting:
    """default: as the README says it. attribute: its name in vbs.settings, where that is another one."""

    name: str
    default: str
    words: str
    attribute: str = ""
    secret: bool = False

    @property
    def editable(self) -> bool:
        """It can be changed while vbs runs; every other one is read once, at the start."""
        return self.name in CHECKS

    @property
    def range(self) -> str:
        """What it may be, in words; empty where that is not a range."""
        allowed = WHOLE.get(self.name)
        return f"{allowed.min:,} to {allowed.max:,}" if allowed else ""

    @property
    def given(self) -> bool:
        return self.name in settings.VBS_GIVEN

    def environment(self) -> Any:
        """The environment's value, or the default."""
        return getattr(settings, self.attribute or self.name)

    def shown(self, value: Any) -> str:
        """In words, and never a secret."""
        if self.secret:
            return "set" if value else "not set"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list | tuple):
            value = ",".join(map(str, value))
        return _CREDENTIALS.sub(r"\1***@", str(value))


_CREDENTIALS = re.compile(r"(://)[^/@\s]*@")

SETTINGS = (
    Setting("VBS_DATA_DIR", "`data`", "Where everything that must survive lives"),
    Setting("VBS_HOST", "`127.0.0.1`", "Address to listen on"),
    Setting("VBS_PORT", "`4080`", "Port to listen on"),
    Setting(
        "VBS_API_AUTH", "`required`", "`open` serves one project without keys; refused unless the host is loopback"
    ),
    Setting(
        "VBS_ALLOWED_HOSTS",
        "loopback, `VBS_HOST`",
        "Names that clients may address the server by",
        attribute="ALLOWED_HOSTS",
    ),
    Setting(
        "VBS_SECURE_COOKIES",
        "as the origins below",
        "Cookies go over TLS only; on where `VBS_TRUSTED_ORIGINS` are all `https://`",
    ),
    Setting(
        "VBS_TRUSTED_ORIGINS",
        "",
        "Origins that may send forms, e.g. `https://vbs.example.org` behind a proxy",
        attribute="CSRF_TRUSTED_ORIGINS",
    ),
    Setting(
        "VBS_SECRET_KEY",
        "made, kept in the data folder",
        "Signs sessions and tasks",
        attribute="SECRET_KEY",
        secret=True,
    ),
    Setting("VBS_DEBUG", "`false`", "Django's debug mode; never where others reach it", attribute="DEBUG"),
    Setting("VBS_LOG_FORMAT", "`human`", "`json`: an object a line"),
    Setting("VBS_LOG_LEVEL", "`INFO`", "`DEBUG` … `CRITICAL`"),
    Setting("SENTRY_DSN", "", "Errors go there when it is set", secret=True),
    Setting("DATABASE_URL", "", "A PostgreSQL server; without it one is started in the data folder", secret=True),
    Setting("VBS_DB_POOL", "`false`", "Keep connections across requests; `make up` sets it for the web process"),
    Setting("VBS_STORAGE", "", "`s3://bucket/prefix` for files; without it they are in the data folder"),
    Setting("VBS_S3_ENDPOINT", "", "URL of an S3 server that is not AWS"),
    Setting("VBS_MAX_FILE_MB", "`512`", "Largest file in one upload"),
    Setting("VBS_MAX_BATCH_MB", "`200`", "Largest input file of a batch"),
    Setting(
        "VBS_MAX_SPOOL_MB",
        "`4096`",
        "Disk space for bodies of requests on their way in; one address may have half of it",
    ),
    Setting("VBS_MAX_CONNECTIONS", "`1000`", "Connections at once; fewer where the system allows too few open files"),
    Setting("VBS_MAX_CONNECTIONS_PER_ADDRESS", "`256`", "Of them from one address; behind a proxy, that is everybody"),
    Setting("VBS_MAX_STREAMS", "`16`", "Downloads that one key, or one person, may have running at once"),
    Setting("VBS_MAX_BATCH_REQUESTS", "`50000`", "Most requests in a batch"),
    Setting("VBS_MAX_LINE_MB", "`16`", "Longest line of an input file"),
    Setting("VBS_MAX_ANSWER_MB", "`64`", "Longest answer of an engine; what is longer fails its request"),
    Setting("VBS_COMPLETION_WINDOWS", "`24h`", "Windows that clients may ask for, e.g. `1h,24h,7d`"),
    Setting("VBS_RETENTION_DAYS", "`30`", "How long request rows are kept after a batch has ended"),
    Setting("VBS_IO_WORKERS", "`2`", "Processes for validation, outputs and clean-up"),
    Setting("VBS_LEASE_SECONDS", "`30`", "After this long without a sign of life a batch is taken from its worker"),
    Setting("VBS_MAX_WAIT_MINUTES", "`30`", "After this long a batch goes before those of the loaded model"),
    Setting("VBS_ENGINE_START_SECONDS", "`1800`", "How long a model may take to load"),
    Setting("VBS_REQUEST_SECONDS", "`3600`", "How long one request may take on the engine"),
    Setting("VBS_REQUEST_ATTEMPTS", "`4`", "How often a request is sent at most, after 5xx or a lost connection"),
    Setting(
        "VBS_DEFAULT_MAX_TOKENS",
        "`0`",
        "Longest answer to a request that sets no limit, in tokens; 0: to the end of the model's context",
    ),
    Setting("VBS_WORKER_NAME", "`gpu`", "Tells GPU workers on one machine apart"),
    Setting(
        "VBS_REMOTE_KEY",
        "",
        "Bearer key for remote engines, sent to those of `VBS_REMOTE_ORIGINS` alone",
        secret=True,
    ),
    Setting(
        "VBS_REMOTE_ORIGINS",
        "",
        "Remote servers that get the key, e.g. `https://vllm.example.org,http://10.0.0.7:8000`",
    ),
    Setting("VBS_HUB_URL", "`https://huggingface.co`", "The hub that models are fetched from"),
    Setting("HF_TOKEN", "", "Token of the hub, for models that need one", secret=True),
    Setting(
        "VBS_DOWNLOADS",
        "`1`",
        "Models that are fetched at once; fewer than `VBS_IO_WORKERS`, so that batches are still validated",
    ),
    Setting(
        "VBS_MODEL_ROOTS",
        "",
        "Folders that models may be in, comma-separated; unset: any on the command line, else only `data/models`",
    ),
    Setting("VBS_PRIVATE_URLS", "`false`", "Remote servers that were added by API or page may have private addresses"),
    Setting(
        "VBS_MEDIA_DOMAINS",
        "",
        "Hosts that images and sounds in requests may be fetched from, comma-separated; unset: only `data:`",
    ),
    Setting("VBS_GPU_MAX_CELSIUS", "`90`", "New work waits while the GPU is hotter"),
    Setting(
        "VBS_GPU_MAX_USED_PERCENT", "`50`", "No model is loaded while others use more than this of the GPU's memory"
    ),
    Setting("VBS_SLEEP_MODE", "`false`", "On a GPU, models that make room sleep in main memory and wake in seconds"),
    Setting(
        "VBS_TRUST_REMOTE_CODE",
        "`false`",
        "Admins may say of a model that code which comes with it is run here (`trust_remote_code`)",
    ),
    Setting(
        "VBS_SCRIPTED_ENGINE",
        "`false`",
        "Models of `scripted:`, an engine for tests and demos that requests can stop, may be added and run",
    ),
    Setting("VBS_CURRENCY", "`USD`", "What models' prices are in: three letters"),
)

BY_NAME = {setting.name: setting for setting in SETTINGS}
