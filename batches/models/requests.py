"""The requests of a batch, and its activity: how many requests ended when."""

import hashlib
from typing import Self

from django.db import connection, models
from django.db.models import Case, F, Func, IntegerField, Q, TextField, When
from django.db.models.functions import Left


class RequestState(models.IntegerChoices):
    PENDING = 0  # waits or runs
    COMPLETED = 1
    FAILED = 2
    EXPIRED = 3
    CANCELLED = 4

    @classmethod
    def in_error_file(cls) -> "tuple[RequestState, ...]":
        return (cls.FAILED, cls.EXPIRED, cls.CANCELLED)

    @classmethod
    def retryable(cls) -> "tuple[RequestState, ...]":
        """The states that a retry runs again. A request of an ended batch that is pending was never run, because its
        model could not be loaded."""
        return (cls.PENDING, *cls.in_error_file())


class RequestQuerySet(models.QuerySet["BatchRequest"]):
    def with_size(self) -> Self:
        """With the size of each answer in bytes as `size`, which is known without reading the answer."""
        return self.annotate(size=Func(F("response"), function="octet_length", output_field=IntegerField()))

    def with_answer(self, most: int, characters: int) -> Self:
        """With `size`, and as `read` each answer that has at most so many bytes; of a longer one its first
        characters."""
        cut = Left("response", characters)
        read = Case(When(size__lte=most, then=F("response")), default=cut, output_field=TextField())
        return self.with_size().annotate(read=read)


class BatchRequest(models.Model):
    """A request: where its line is in the input file, and its outcome. The outcome is written once, by the runner's
    commit, or when the batch ends without it."""

    batch = models.ForeignKey("batches.Batch", on_delete=models.CASCADE, related_name="requests", db_index=False)
    line = models.PositiveIntegerField(help_text="Its line in the input file, from 1")
    offset = models.BigIntegerField(help_text="Where the line starts, in bytes")
    length = models.PositiveIntegerField(help_text="How long it is, in bytes, without the line end")
    custom_id = models.CharField(max_length=512)
    model_index = models.PositiveSmallIntegerField(help_text="Which of the batch's models")
    prefix = models.UUIDField(help_text="Requests that begin alike have prefixes that sort next to each other")
    state = models.SmallIntegerField(choices=RequestState.choices, default=RequestState.PENDING)
    crashes = models.PositiveSmallIntegerField(default=0, help_text="Engine deaths while it was in flight")
    status_code = models.PositiveSmallIntegerField(null=True)
    response = models.TextField(null=True, help_text="The body of the answer, JSON on one line")  # noqa: DJ001
    request_id = models.CharField(max_length=100, null=True)  # noqa: DJ001
    error_code = models.CharField(max_length=100, null=True)  # noqa: DJ001
    error_message = models.TextField(null=True)  # noqa: DJ001
    input_tokens = models.PositiveIntegerField(null=True)
    output_tokens = models.PositiveIntegerField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = RequestQuerySet.as_manager()

    class Meta:
        ordering = ["batch", "line"]
        constraints = [models.UniqueConstraint(fields=["batch", "line"], name="request_once")]
        indexes = [
            models.Index(
                fields=["batch", "model_index", "prefix", "line"],
                name="request_pending",
                condition=Q(state=RequestState.PENDING),
            ),
            models.Index(fields=["batch", "line"], name="request_failed", condition=Q(state=RequestState.FAILED)),
        ]

    def __str__(self) -> str:
        return f"{self.batch_id}:{self.line}"

    @property
    def wire_id(self) -> str:
        return f"batch_{request_id(self.batch_id, self.line)}"


def request_id(batch_id: str, line: int) -> str:
    """The id that the engine gets for a request; it is in the answer, and in both logs."""
    return "req_" + hashlib.sha256(f"{batch_id}:{line}".encode()).hexdigest()[:24]


class Activity(models.Model):
    """How many requests of a batch ended within an interval of BUCKET_SECONDS; the runner's commit adds to it."""

    BUCKET_SECONDS = 2

    batch = models.ForeignKey("batches.Batch", on_delete=models.CASCADE, related_name="activity", db_index=False)
    at = models.DateTimeField(help_text="When the interval begins: a multiple of BUCKET_SECONDS since 1970")
    completed = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)

    class Meta:
        ordering = ["batch", "at"]
        verbose_name_plural = "activity"
        constraints = [models.UniqueConstraint(fields=["batch", "at"], name="activity_once")]
        indexes = [models.Index(fields=["at"], name="activity_by_time")]

    def __str__(self) -> str:
        return f"{self.batch_id} at {self.at:%Y-%m-%d %H:%M:%S}"


TABLE = Activity._meta.db_table
COUNTS = ("completed", "failed", "input_tokens", "output_tokens")


def adding(source: str) -> str:
    """SQL that adds the COUNTS in each row of `source` to the present interval of its `batch`.

    It adds nothing where there is no outcome. The caller has locked the batches' rows, so that no two of these
    deadlock.
    """
    names = ", ".join(COUNTS)
    sums = ", ".join(f"{name} = kept.{name} + excluded.{name}" for name in COUNTS)
    seconds = Activity.BUCKET_SECONDS
    return (
        f"INSERT INTO {TABLE} AS kept (batch_id, at, {names}) "  # noqa: S608  (names of columns only)
        f"SELECT batch, to_timestamp(floor(extract(epoch FROM now()) / {seconds}) * {seconds}), {names} "
        f"FROM {source} WHERE completed + failed > 0 ON CONFLICT (batch_id, at) DO UPDATE SET {sums}"
    )


def add_failed(batch_id: str, failed: int) -> None:
    """Count requests that ended without an answer, in a transaction that has locked the batch."""
    counts = "0 AS completed, %(failed)s AS failed, 0 AS input_tokens, 0 AS output_tokens"
    ended = f"(SELECT %(batch)s AS batch, {counts}) AS ended"
    with connection.cursor() as cursor:
        cursor.execute(adding(ended), {"batch": batch_id, "failed": failed})
