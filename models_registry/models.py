"""Models that requests can name, their aliases, downloads, operations and measurements, and the workers."""

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models.functions import Coalesce, Now
from django.utils import timezone

from models_registry.engine.options import LORA_RANKS
from models_registry.engine.spec import Adapter, EngineKind, EngineSpec
from vbs.leases import Leased, LeasedQuerySet
from vbs.openai import ids

USUAL_LORA_RANK = 16
SPARE_ADAPTERS = 2  # that an engine can keep beside those that are there when it is started
ASKED_LATELY = timedelta(minutes=1)  # for which it is not written again that a remote server answers
NO_FAILURE: dict[str, Any] = {"server_failed_at": None, "server_failure": "", "server_failure_public": ""}


class Task(models.TextChoices):
    CHAT = "chat", "chat"
    COMPLETION = "completion", "completion"
    EMBEDDING = "embedding", "embedding"
    SCORE = "score", "score"  # a cross-encoder: it reads two texts together, and says how well they go together


READING = (Task.EMBEDDING, Task.SCORE)  # their models write no tokens


class ModelState(models.TextChoices):
    DRAFT = "draft", "draft"  # registered; its files are not here, and are not being fetched
    DOWNLOADING = "downloading", "downloading"  # `download` says how far it is; batches for it wait
    READY = "ready", "ready"
    FAILED = "failed", "failed"  # `reason` says why it cannot be served


UNCHECKED = "unchecked"  # what is shown in place of `ready` before the first check
CHECK_KEPT = timedelta(minutes=1)  # for which a check that finds the same as the one before is not written


class ModelQuerySet(models.QuerySet["Model"]):
    def record_check(self, error: str = "") -> None:
        """Write that these models could be loaded now, or why not. Remote models have `server_answers` and
        `server_fails` for that."""
        error = error.replace("\0", "")
        old = models.Q(checked_at=None) | ~models.Q(check_error=error) | models.Q(checked_at__lt=Now() - CHECK_KEPT)
        self.filter(old).exclude(kind=EngineKind.REMOTE).update(checked_at=Now(), check_error=error)

    def described(self) -> "ModelQuerySet":
        """With aliases and base, which lists of models show."""
        return self.select_related("base").prefetch_related("aliases")

    def server_answers(self) -> None:
        """Keep of these remote models that their server answers. It is written when that is news, and once a minute."""
        known = models.Q(server_failed_at=None, server_asked_at__gte=Now() - ASKED_LATELY)
        self.filter(kind=EngineKind.REMOTE).exclude(known).update(server_asked_at=Now(), **NO_FAILURE)

    def server_fails(self, why: str, public: str) -> None:
        """Keep of these remote models that their server fails, why, and since when; written as seldom.

        public: why, in words that everybody may read.
        """
        words = {"server_failure": why.replace("\0", ""), "server_failure_public": public.replace("\0", "")}
        known = models.Q(server_failed_at__isnull=False, server_asked_at__gte=Now() - ASKED_LATELY, **words)
        since = Coalesce("server_failed_at", Now())
        self.filter(kind=EngineKind.REMOTE).exclude(known).update(
            server_asked_at=Now(), server_failed_at=since, **words
        )


class Model(models.Model):
    """A model under the name that requests use. source: a folder, or the URL of an OpenAI-compatible server.

    A model with a `base` is a LoRA adapter: `source` is the adapter's folder, and the base's engine serves it.
    """

    name = models.CharField(max_length=200, unique=True)
    kind = models.CharField(
        max_length=16, choices=[(kind.value, kind.value) for kind in EngineKind], default=EngineKind.VLLM.value
    )
    source = models.CharField(max_length=1000, blank=True, help_text="Folder of the model, or URL of a remote server")
    task = models.CharField(max_length=16, choices=Task.choices, default=Task.CHAT)
    engine_args = models.JSONField(default=dict, blank=True, help_text='vLLM options, e.g. {"max-model-len": 2048}')
    remote_name = models.CharField(max_length=200, blank=True, help_text="The remote server's name for it")
    pool = models.JSONField(
        default=list, db_default=[], blank=True, help_text="URLs of further remote servers that serve the same"
    )
    key_secret = models.TextField(
        default="", db_default="", editable=False, help_text="The key of the remote server, encrypted"
    )
    private_address = models.BooleanField(
        default=False, help_text="The remote server may have a private address: it was added on this machine"
    )
    server_asked_at = models.DateTimeField(
        null=True, blank=True, help_text="When its remote server was asked last; empty until it is"
    )
    server_failed_at = models.DateTimeField(
        null=True, blank=True, help_text="Since when its remote server fails; empty while it answers"
    )
    server_failure = models.TextField(
        default="", db_default="", blank=True, help_text="Why, and what to do; it may name the server's address"
    )
    server_failure_public = models.TextField(
        default="", db_default="", blank=True, help_text="The same in words that everybody may read"
    )
    size_bytes = models.BigIntegerField(null=True, blank=True)
    context_length = models.PositiveIntegerField(null=True, blank=True)
    base = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="adapters")
    lora_rank = models.PositiveSmallIntegerField(null=True, blank=True)
    revision = models.CharField(
        max_length=64, blank=True, help_text="Commit of the hub's repository, where it is known"
    )
    state = models.CharField(max_length=12, choices=ModelState.choices, default=ModelState.READY)
    reason = models.TextField(blank=True, help_text="Why it failed, and what to do")
    checked_at = models.DateTimeField(null=True, editable=False, help_text="When it was last loaded, or could not be")
    check_error = models.TextField(
        default="", db_default="", editable=False, help_text="Why it could not be loaded then; empty where it could"
    )
    hub_id = models.CharField(max_length=200, blank=True, help_text="Repository on the hub: organisation/name")
    hub_revision = models.CharField(max_length=200, blank=True, help_text="Branch, tag or commit that was asked for")
    hub_file = models.CharField(max_length=500, blank=True, help_text="The one .gguf file of the repository")
    hub_token = models.ForeignKey("HubToken", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    license = models.CharField(max_length=100, blank=True)
    input_price = models.DecimalField(
        max_digits=12, decimal_places=4, null=True, blank=True, help_text="Of a million tokens that it reads"
    )
    output_price = models.DecimalField(
        max_digits=12, decimal_places=4, null=True, blank=True, help_text="Of a million tokens that it writes"
    )
    notes = models.TextField(blank=True)
    trust_remote_code = models.BooleanField(default=False, help_text="Run the code that comes with the model")
    allow_pickle = models.BooleanField(
        default=False, help_text="Load weights that are pickles, of which only tensors are read"
    )
    created_at = models.DateTimeField(db_default=Now())

    objects = ModelQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        permissions = [
            ("trust_model", "Can have code run that comes with a model"),
            ("use_playground", "Can ask models in the playground"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def shown_state(self) -> str:
        """Its state in the word that pages, the API and the commands use: `ready` where that was true at the last
        check, and `unchecked` before the first."""
        if self.state != ModelState.READY:
            return self.state
        if self.kind == EngineKind.REMOTE:
            return self.server_state
        if self.checked_at is None:
            return UNCHECKED
        return ModelState.FAILED.value if self.check_error else ModelState.READY.value

    @property
    def shown_reason(self) -> str:
        """Why it is shown as failed, for operators; empty where it is not."""
        if self.state != ModelState.READY:
            return self.reason
        return self.server_failure if self.kind == EngineKind.REMOTE else self.check_error

    @property
    def last_check(self) -> datetime | None:
        """When it was last loaded, or its server asked."""
        return self.server_asked_at if self.kind == EngineKind.REMOTE else self.checked_at

    def spec(self) -> EngineSpec:
        """The spec of the engine that serves it; for an adapter that of its base."""
        if self.base:
            return self.base.spec()
        return EngineSpec(
            name=self.name,
            source=self.source,
            task=self.task,
            kind=EngineKind(self.kind),
            args=tuple(sorted((self._code_args() | self.engine_args).items())),
            remote_name=self.remote_name,
            pool=tuple(self.pool),
            private=self.private_address or settings.VBS_PRIVATE_URLS,
            media_domains=tuple(settings.VBS_MEDIA_DOMAINS) if self.kind == EngineKind.VLLM else (),
        )

    def lora_options(self, active: int, most: int) -> dict[str, Any]:
        """The engine's options for so many of its adapters at once; none where it has no adapters that are ready.

        most: adapters that may run at once. The options leave room for one that nobody has asked for yet, and for the
        ranks of all, because an engine has to be started again for other options.
        """
        here = self.adapters.filter(state=ModelState.READY)
        ranks = [rank or 0 for rank in here.values_list("lora_rank", flat=True)]
        if not ranks:
            return {}
        highest = max(USUAL_LORA_RANK, *ranks)
        together = min(active + 1, most, self.engine_args.get("max-cpu-loras", most))
        together = self.engine_args.get("max-loras", together)
        return {
            "enable-lora": True,
            "max-lora-rank": next(rank for rank in LORA_RANKS if rank >= highest),
            "max-loras": together,
            "max-cpu-loras": max(together, len(ranks) + SPARE_ADAPTERS),
        }

    def _code_args(self) -> dict[str, Any]:
        return {"trust-remote-code": True} if self.trust_remote_code else {}

    def adapter(self) -> Adapter | None:
        return Adapter(self.served_name, self.source, self.lora_rank or 0) if self.base else None

    @property
    def served_name(self) -> str:
        """The engine's name of it. An adapter that is removed and added again gets another name there."""
        return f"@adapter-{self.pk}" if self.base else self.remote_name or self.name

    @property
    def server_state(self) -> str:
        """Of a remote model what was true when its server was asked last: `unchecked` until it is, `ready`, or
        `failed`. Empty for others."""
        if self.kind != EngineKind.REMOTE:
            return ""
        if self.server_failed_at:
            return "failed"
        return "ready" if self.server_asked_at else "unchecked"


class HubToken(models.Model):
    """An access token of the hub. `secret` is encrypted with the server's secret key (models_registry.hub.tokens)."""

    name = models.CharField(max_length=100, unique=True)
    secret = models.TextField(editable=False)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Alias(models.Model):
    """Another name for a model, usable wherever a model's name is. It can be pointed at another model."""

    name = models.CharField(max_length=200, unique=True)
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="aliases")
    changed_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "aliases"

    def __str__(self) -> str:
        return f"{self.name} → {self.model}"


class DownloadState(models.TextChoices):
    QUEUED = "queued", "queued"
    RUNNING = "running", "running"
    PAUSED = "paused", "paused"
    CANCELLED = "cancelled", "cancelled"
    FAILED = "failed", "failed"
    DONE = "done", "done"


OPEN_DOWNLOADS = (DownloadState.QUEUED, DownloadState.RUNNING, DownloadState.PAUSED)


class Download(Leased):
    """The download of a model's files. Files on the disk are found again, so it may stop at any instant."""

    model = models.OneToOneField(Model, on_delete=models.CASCADE, related_name="download")
    state = models.CharField(max_length=10, choices=DownloadState.choices, default=DownloadState.QUEUED)
    reason = models.TextField(blank=True, help_text="Why it failed, and what to do")
    commit = models.CharField(max_length=64, blank=True)
    files = models.JSONField(default=list, help_text="path, size and sha256 (or null) of each")
    bytes_total = models.BigIntegerField(default=0)
    bytes_done = models.BigIntegerField(default=0)
    bytes_per_second = models.FloatField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = LeasedQuerySet.as_manager()

    class Meta:
        ordering = ["created_at"]
        indexes = [
            models.Index(fields=["created_at"], name="download_open", condition=models.Q(state__in=OPEN_DOWNLOADS))
        ]

    def __str__(self) -> str:
        return f"{self.model}: {self.state}"


class OperationKind(models.TextChoices):
    LOAD = "load", "load"
    UNLOAD = "unload", "unload"
    TEST = "test", "test"
    BENCHMARK = "benchmark", "benchmark"
    TUNE = "tune", "tune"


class OperationState(models.TextChoices):
    QUEUED = "queued", "queued"
    RUNNING = "running", "running"
    SUCCEEDED = "succeeded", "succeeded"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"


OPEN_OPERATIONS = (OperationState.QUEUED, OperationState.RUNNING)


class Operation(Leased):
    """Something that somebody asked a worker to do with a model on the GPU. It waits in the queue with the batches."""

    id = models.CharField(primary_key=True, max_length=40, default=ids.operation_id, editable=False)
    kind = models.CharField(max_length=10, choices=OperationKind.choices)
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="operations")
    state = models.CharField(max_length=10, choices=OperationState.choices, default=OperationState.QUEUED)
    priority = models.SmallIntegerField(default=0, help_text="As of batches; above 100 it interrupts what runs")
    options = models.JSONField(default=dict, blank=True)
    result = models.JSONField(null=True, blank=True)
    error = models.TextField(blank=True)
    log = models.TextField(blank=True, help_text="What it did, a line each, with the time of day")
    doing = models.CharField(max_length=200, blank=True, default="", db_default="", help_text="What it does now")
    percent = models.PositiveSmallIntegerField(null=True, blank=True, help_text="How far it is, where that is known")
    asked_by = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    worker = models.UUIDField(null=True, blank=True, help_text="The one that is to do it; any, where there is none")

    objects = LeasedQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["-priority", "created_at"], name="operation_open", condition=models.Q(state__in=OPEN_OPERATIONS)
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.model} ({self.id})"


class MeasurementKind(models.TextChoices):
    LOAD = "load", "load"  # load_seconds, first_token_seconds, memory_bytes, predicted_bytes
    BENCHMARK = "benchmark", "benchmark"  # all of them
    BATCH = "batch", "batch"  # one turn of batches on the engine, of one model and endpoint: requests, tokens, seconds


class Measurement(models.Model):
    """How long a load, a benchmark or a turn of a batch took, and what memory. Times in seconds; tokens as the engine
    counts them."""

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="measurements")
    kind = models.CharField(max_length=10, choices=MeasurementKind.choices)
    at = models.DateTimeField(default=timezone.now)
    machine = models.CharField(max_length=200, blank=True, help_text="Processor or GPU")
    versions = models.JSONField(default=dict, blank=True, help_text="Of vLLM and torch")
    options = models.JSONField(default=dict, blank=True, help_text="The engine's, as it was started")
    batch_id = models.CharField(max_length=40, blank=True)
    endpoint = models.CharField(max_length=40, blank=True)
    requests = models.PositiveIntegerField(default=0, help_text="That were answered")
    failed = models.PositiveIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    unlimited = models.PositiveIntegerField(default=0, help_text="Of the answered, those that had no limit")
    unlimited_tokens = models.BigIntegerField(default=0, help_text="That these wrote")
    seconds = models.FloatField(null=True, help_text="From the first request to the last answer")
    share = models.FloatField(
        default=1, db_default=1, help_text="Its part of what was in flight on the engine, in these seconds"
    )
    at_once = models.PositiveIntegerField(null=True, help_text="The most that were in flight on the engine at once")
    latency_p50 = models.FloatField(null=True)
    latency_p99 = models.FloatField(null=True)
    latency_mean = models.FloatField(null=True)
    load_seconds = models.FloatField(null=True, help_text="From the start of the engine until it answers")
    first_token_seconds = models.FloatField(null=True, help_text="From the unloading of another model to a first token")
    memory_bytes = models.BigIntegerField(null=True, help_text="That the engine has taken")
    predicted_bytes = models.BigIntegerField(null=True, help_text="What fit had said, uncorrected")

    class Meta:
        ordering = ["-at"]
        indexes = [models.Index(fields=["model", "kind", "-at"], name="measurement_of_model")]

    def __str__(self) -> str:
        return f"{self.kind} of {self.model} at {self.at:%Y-%m-%d %H:%M}"

    @property
    def engine_seconds(self) -> float:
        """The seconds that it would have taken with the engine for itself."""
        return (self.seconds or 0.0) * self.share


class InteractiveUsage(models.Model):
    """What a project's interactive requests to a model took in an hour. Tokens as the engine counts them.

    model: its name, for it may be removed meanwhile. hour: its beginning. failed: without a whole answer.
    """

    project = models.ForeignKey("accounts.Project", on_delete=models.CASCADE, related_name="+")
    model = models.CharField(max_length=200)
    hour = models.DateTimeField()
    requests = models.BigIntegerField(default=0)
    failed = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)

    class Meta:
        ordering = ["-hour"]
        verbose_name_plural = "interactive usage"
        constraints = [models.UniqueConstraint(fields=["project", "model", "hour"], name="interactive_usage_of_hour")]
        indexes = [models.Index(fields=["hour"], name="interactive_usage_hour")]

    def __str__(self) -> str:
        return f"{self.requests} requests to {self.model} at {self.hour:%Y-%m-%d %H:%M}"


HEARTBEAT_SECONDS = 5
STALE = timedelta(seconds=4 * HEARTBEAT_SECONDS)  # a worker without a heartbeat for so long counts as dead


class WorkerState(models.TextChoices):
    IDLE = "idle", "idle"
    LOADING = "loading", "loading a model"
    RUNNING = "running", "running"


class WorkerQuerySet(models.QuerySet["Worker"]):
    def alive(self) -> "WorkerQuerySet":
        return self.filter(heartbeat_at__gt=Now() - STALE)

    def loaded(self) -> set[str]:
        """What live workers have: names of models, the engines' names of adapters, and remote models that run."""
        found = list(self.alive().values_list("model_name", "adapters", "lanes"))
        names = {name for model, adapters, _ in found if model for name in (model, *adapters)}
        running = (lane for _, _, lanes in found for lane in lanes if lane["addresses"] and lane["state"] != "failed")
        return names | {lane["model"] for lane in running}

    def loading(self) -> dict[str, str]:
        """The models that live workers are loading, with what each load does."""
        rows = self.alive().filter(state=WorkerState.LOADING).values_list("activity", flat=True)
        told = (row.removeprefix("Loading ").partition(": ") for row in rows)
        return {name: doing for name, _, doing in told}

    def asleep(self) -> set[str]:
        """Names of models whose engines sleep."""
        return {name for health in self.alive().values_list("health", flat=True) for name in health.get("asleep", ())}


class Worker(models.Model):
    """A worker process. It writes its heartbeat here, and its id is in the leases that it holds."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    cluster = models.CharField(max_length=16)
    hostname = models.CharField(max_length=255)
    pid = models.IntegerField()
    version = models.CharField(max_length=40, blank=True, help_text="Of vbs, that it runs")
    home = models.CharField(max_length=1000, blank=True, help_text="Folder of its engine")
    url = models.CharField(max_length=500, blank=True, help_text="Where other hosts reach its engine")
    started_at = models.DateTimeField(db_default=Now())
    heartbeat_at = models.DateTimeField(db_default=Now())
    state = models.CharField(max_length=16, choices=WorkerState.choices, default=WorkerState.IDLE)
    activity = models.CharField(
        max_length=500, blank=True, help_text="What it is doing, in words that everybody may read"
    )
    work_kind = models.CharField(max_length=20, blank=True, help_text="What kind of work it is at: batch, operation")
    work_id = models.CharField(max_length=40, blank=True, help_text="Of that work, for those who may know of it")
    model_name = models.CharField(max_length=200, blank=True)
    engine_pid = models.IntegerField(null=True, blank=True)
    engine_url = models.CharField(max_length=500, blank=True)
    adapters = models.JSONField(default=list, blank=True, help_text="Those that its engine has, by the engine's names")
    loading_since = models.DateTimeField(null=True, blank=True, help_text="When the start that it waits for began")
    restart_asked_at = models.DateTimeField(null=True, blank=True, help_text="Somebody wants it to end and start anew")
    lanes = models.JSONField(
        default=list, db_default=[], blank=True, help_text="The remote models that it runs at present"
    )
    asked_at = models.DateTimeField(null=True, blank=True, help_text="When its engine got an interactive request last")
    health = models.JSONField(default=dict, blank=True, help_text="Of its GPU: memory, utilisation, temperature, power")

    objects = WorkerQuerySet.as_manager()

    class Meta:
        ordering = ["cluster", "started_at"]

    def __str__(self) -> str:
        return f"{self.cluster}@{self.hostname}:{self.pid}"

    @property
    def alive(self) -> bool:
        return timezone.now() - self.heartbeat_at < STALE

    def is_eldest(self) -> bool:
        """Is it the oldest live worker of its cluster?"""
        older = models.Q(started_at__lt=self.started_at) | models.Q(started_at=self.started_at, pk__lt=self.pk)
        return not Worker.objects.alive().filter(older, cluster=self.cluster).exists()

    def ask_restart(self) -> bool:
        """Have its process end and start again, within a heartbeat. False when it gives no sign of life."""
        return bool(Worker.objects.alive().filter(pk=self.pk).update(restart_asked_at=Now()))

    def restart_asked(self) -> bool:
        """Has somebody asked for a restart since it started?"""
        return Worker.objects.filter(pk=self.pk, restart_asked_at__gte=models.F("started_at")).exists()

    def set(self, **fields: Any) -> None:
        """Change some fields in one statement, which counts as a heartbeat.

        If the row was deleted while this machine was suspended, it is made again with the same id, which is in the
        worker's leases.
        """
        for name, value in fields.items():
            setattr(self, name, value)
        rows = type(self).objects
        if not rows.filter(pk=self.pk).update(heartbeat_at=Now(), **fields) and self.pk is not None:
            self.started_at = self.heartbeat_at = Now()
            self.restart_asked_at = None
            rows.bulk_create([self], ignore_conflicts=True)  # the heartbeat and the main loop may both do this
            self.refresh_from_db(fields=["started_at", "heartbeat_at"])
