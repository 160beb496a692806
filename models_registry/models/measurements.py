"""What was measured of models, and what direct requests to them took."""

from django.db import models
from django.utils import timezone

from models_registry.models.registered import Model


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
