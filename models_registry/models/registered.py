"""Models that requests can name, and their aliases."""

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models.functions import Coalesce, Now

from models_registry.engine.options import LORA_RANKS
from models_registry.engine.spec import Adapter, EngineKind, EngineSpec

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
