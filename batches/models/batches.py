"""Batches and their logs. Only the methods of a batch change its status, each under a lock of its row."""

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVectorField
from django.db import models, transaction
from django.db.models import F, Func, Q
from django.db.models.functions import Now
from django.utils import timezone

from batches.counts import Counts
from batches.models import expiry
from batches.models.batch_rows import BatchQuerySet
from batches.models.files import File
from batches.models.requests import RequestState, add_failed
from batches.models.searching import SearchIndex
from batches.models.statuses import CLOSING, PRIORITIES, RUNNABLE, TERMINAL, BatchStatus
from models_registry.models import Model
from vbs.accounts.models import Project
from vbs.broker import wake
from vbs.leases import RELEASED, UNHELD, Leased
from vbs.openai import ids
from vbs.openai.errors import Conflict

log = logging.getLogger(__name__)


# The words of the name, and of the metadata's keys and values, to look for. PostgreSQL takes "a.b" and "a-b" for one
# word, so a name is there twice: as it is, and with blanks in place of such signs.
_NAME_WORDS = "to_tsvector('simple', %(expressions)s || ' ' || translate(%(expressions)s, '-./', '   '))"
_METADATA_WORDS = """coalesce(jsonb_to_tsvector('simple', %(expressions)s, '["key", "string"]'), '')"""
WORDS = Func(
    Func(F("name"), template=_NAME_WORDS),
    Func(F("metadata"), template=_METADATA_WORDS),
    arg_joiner=" || ",
    template="(%(expressions)s)",
    output_field=SearchVectorField(),
)


MOST_NAME = 200  # characters


class LeaseLost(Exception):
    """The worker's lease is lost: the batch was taken over, or has ended."""


class Batch(Leased):
    id = models.CharField(primary_key=True, max_length=40, default=ids.batch_id, editable=False)
    name = models.CharField(
        max_length=MOST_NAME, blank=True, default="", db_default="", help_text="Given, or its file's without the ending"
    )
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="batches")
    input_file_id_given = models.CharField(max_length=200, help_text="As the client sent it")
    input_file = models.ForeignKey(File, null=True, on_delete=models.PROTECT, related_name="+")
    endpoint = models.CharField(max_length=40)
    completion_window = models.CharField(max_length=10)
    metadata = models.JSONField(null=True, blank=True)
    priority = models.SmallIntegerField(default=0)
    default_model = models.CharField(max_length=200, blank=True, help_text="For lines that name none")
    output_seconds = models.PositiveIntegerField(null=True, help_text="output_expires_after")
    created_by = models.CharField(max_length=150, blank=True, help_text="Who made it in the browser")
    retry_of = models.ForeignKey("self", null=True, on_delete=models.SET_NULL, related_name="retries")

    status = models.CharField(max_length=12, choices=BatchStatus.choices, default=BatchStatus.VALIDATING)
    outcome = models.CharField(max_length=12, choices=BatchStatus.choices, blank=True)
    hidden = models.BooleanField(default=False, help_text="Deleted by its owner")
    errors = models.JSONField(null=True, blank=True)
    model_names = models.JSONField(default=list, help_text="In the order in which the file mentions them")
    resolved = models.JSONField(
        default=list, blank=True, help_text="What those that have started stood for then: asked, model, revision"
    )
    total = models.PositiveIntegerField(default=0)
    completed = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    not_run = models.PositiveIntegerField(
        default=0, help_text="Of the failed, those without an answer because it expired or was cancelled"
    )
    unlimited = models.PositiveIntegerField(default=0, help_text="Requests that set no limit to their answers")
    input_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    tokens_per_second = models.FloatField(null=True)
    requests_per_second = models.FloatField(null=True)
    oldest_sent_at = models.DateTimeField(null=True, help_text="When the oldest of the requests in flight was sent")
    last_sent_at = models.DateTimeField(null=True, help_text="When a request was sent last")
    in_flight = models.PositiveIntegerField(null=True, help_text="Requests that were sent and have no answer here yet")
    in_flight_seconds = models.FloatField(
        default=0, db_default=0, help_text="For which its requests were in flight, summed over all of them"
    )
    output_file = models.ForeignKey(File, null=True, on_delete=models.PROTECT, related_name="+")
    error_file = models.ForeignKey(File, null=True, on_delete=models.PROTECT, related_name="+")

    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    late_at = models.DateTimeField(null=True, help_text="When it was first seen that its time is over")
    validated_at = models.DateTimeField(null=True)
    in_progress_at = models.DateTimeField(null=True)
    finalizing_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
    expired_at = models.DateTimeField(null=True)
    cancelling_at = models.DateTimeField(null=True)
    cancelled_at = models.DateTimeField(null=True)
    purged_at = models.DateTimeField(null=True, help_text="When the request rows were deleted")

    stumbles = models.PositiveSmallIntegerField(default=0, help_text="Unforeseen errors while it was run")
    deaths = models.PositiveSmallIntegerField(
        default=0, db_default=0, help_text="Engine deaths that a pending request of it has seen; the most"
    )

    objects = BatchQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "batches"
        indexes = [
            models.Index(fields=["project", "-id"], name="batch_by_project"),
            models.Index(
                fields=["-priority", "validated_at", "id"], name="batch_queue", condition=Q(status__in=RUNNABLE)
            ),
            models.Index(fields=["priority", "expires_at"], name="batch_due", condition=Q(status__in=RUNNABLE)),
            GinIndex(fields=["model_names"], name="batch_runnable_by_model", condition=Q(status__in=RUNNABLE)),
            models.Index(fields=["status"], name="batch_live", condition=~Q(status__in=TERMINAL)),
            models.Index(fields=["input_file"], name="batch_needs_file", condition=~Q(status__in=TERMINAL)),
            models.Index(fields=["status", "-id"], name="batch_by_status"),
            models.Index(fields=["project", "status", "-id"], name="batch_of_project_by_status"),
            GinIndex(fields=["model_names"], name="batch_by_model"),
            GinIndex(WORDS, name="batch_by_words"),
        ]

    def __str__(self) -> str:
        return self.id

    @property
    def title(self) -> str:
        """What people call it: its name, or its id where it has none."""
        return self.name or self.pk

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    def runs(self) -> bool:
        """Whether a worker has it: when it was read `with_holding`, or else now."""
        if self.leased_by is None:
            return False
        return Batch.objects.running().filter(pk=self.pk).exists() if self.is_held is None else self.is_held

    def pinned_names(self) -> list[str]:
        """For each of its models the name to look up; once it has started with a model, that model's own name."""
        kept = {one["asked"]: one["model"] for one in self.resolved}
        return [kept.get(name, name) for name in self.model_names]

    @property
    def pending(self) -> int:
        return self.total - self.completed - self.failed

    @property
    def counts(self) -> Counts:
        not_run = self.pending + self.not_run if self.is_terminal else self.not_run
        return Counts(self.total, self.completed, self.failed, not_run)

    @property
    def answered(self) -> int:
        return self.counts.answered

    def percent(self, places: int = 1) -> float:
        """How many per cent of its requests were run, rounded down, so that it is 100 only when all were."""
        whole = 10**places
        return 100 * whole * self.answered // self.total / whole if self.total else 0.0

    def note(self, message: str, level: str = "info", logged: str = "") -> None:
        """Write a line into the batch's own log, and into the worker's. logged: its level there, if it is another; an
        error for the owner of the batch may not be one for the operator."""
        BatchEvent.objects.create(batch=self, level=level, message=message)
        log.log(logging.getLevelName((logged or level).upper()), "Batch %s: %s", self.pk, message)

    def note_once(self, message: str, level: str = "info") -> timedelta:
        """The same, unless it is the last line already. Returns how long it has been the last line."""
        last = self.events.annotate(age=Now() - F("at")).last()
        if last is None or last.message != message:
            self.note(message, level)
            return timedelta()
        return last.age

    # Changes of the status. Each method locks and reads the row, changes it, and returns whether it did.

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with transaction.atomic():
            self.refresh_from_db(from_queryset=Batch.objects.select_for_update())
            yield

    def _enter(self, status: BatchStatus, **fields: Any) -> None:
        """Set a status and its timestamp, which is not before an earlier one even if the clock has gone back."""
        stamp = f"{status.value}_at"
        earlier = [self.created_at, self.in_progress_at, self.finalizing_at, self.cancelling_at]
        fields |= {"status": status, stamp: max([timezone.now(), *(one for one in earlier if one)])}
        for name, value in fields.items():
            setattr(self, name, value)
        self.save(update_fields=list(fields))

    def mark_validated(self, model_names: list[str], total: int, unlimited: int = 0) -> bool:
        """Queue the batch, all of whose lines are good."""
        with self._locked():
            if self.status != BatchStatus.VALIDATING or self.validated_at:
                return False
            self.model_names, self.total, self.validated_at = model_names, total, timezone.now()
            self.unlimited = unlimited
            self.save(update_fields=["model_names", "total", "validated_at", "unlimited"])
            SearchIndex.objects.create(batch=self)
            self.note(f"Validated: {total:,} requests for {', '.join(model_names)}; queued.")
            wake("gpu")
        return True

    def fail(self, errors: list[dict[str, Any]], worker: uuid.UUID | None = None) -> bool:
        """Fail the batch before anything has run. errors: code, line, message and param of each. worker: must have the
        lease."""
        with self._locked():
            if self.status != BatchStatus.VALIDATING or (worker and self.leased_by != worker):
                return False
            self._enter(BatchStatus.FAILED, errors=errors, **RELEASED)
            self.note(f"Failed: {_first_of(errors)}", "error", logged="error" if worker else "warning")
        return True

    def start(self, worker: uuid.UUID, asked: str, model: Model) -> bool:
        """The first request is about to be sent, to this model, which is kept from now on. False when the batch was
        cancelled since it was claimed. Raises LeaseLost."""
        with self._locked():
            if self.leased_by != worker or self.is_terminal:
                raise LeaseLost(self.pk)
            if self.status not in RUNNABLE:
                return False
            if all(kept["asked"] != asked for kept in self.resolved):
                self.resolved.append({"asked": asked, "model": model.name, "revision": model.revision or None})
                self.save(update_fields=["resolved"])
                if model.name != asked:
                    self.note(f"{asked} stands for {model.name} here.")
            if self.status == BatchStatus.VALIDATING:
                self._enter(BatchStatus.IN_PROGRESS)
                self.note("Started.")
            elif self.attempts > 1:
                self.note(f"Continued, with {self.pending:,} of {self.total:,} requests left.")
        return True

    def finish(self, worker: uuid.UUID | None = None) -> bool:
        """Release the lease and have the files written, if nothing is left to run, or the batch has expired.

        An expired batch's pending requests get the state expired first. False when there is nothing to finish.
        """
        with self._locked():
            if worker and self.leased_by != worker:
                return False
            if self.status == BatchStatus.CANCELLING:
                self._release()
            elif self.status in RUNNABLE:
                outcome = BatchStatus.COMPLETED
                if self.pending and self._is_over():
                    expired = self._give_up(RequestState.EXPIRED)
                    add_failed(self.pk, expired)
                    outcome = BatchStatus.EXPIRED
                    self.note(f"Expired with {expired:,} requests not run.", "warning")
                elif self.pending:
                    return False
                self._enter(BatchStatus.FINALIZING, outcome=outcome, **RELEASED)
            else:
                return False
            wake("finalize", self.pk)
        return True

    def _is_over(self) -> bool:
        now = Batch.objects.annotate(now=Now()).values_list("now", flat=True).get(pk=self.pk)
        return expiry.is_over(Batch.objects.filter(pk=self.pk), self.expires_at, self.late_at, now)

    def expire_unread(self) -> bool:
        """Fail a batch that has expired before its input file could be read. False when it has not."""
        with self._locked():
            if self.status != BatchStatus.VALIDATING or self.validated_at or not self._is_over():
                return False
        message = "The completion window was over before the input file could be read."
        return self.fail([{"code": "batch_expired", "line": None, "message": message, "param": None}])

    def _give_up(self, state: RequestState) -> int:
        """End its pending requests without an answer. Returns how many there were."""
        given_up = self.requests.filter(state=RequestState.PENDING).update(state=state, finished_at=Now())
        self.failed, self.not_run = F("failed") + given_up, F("not_run") + given_up
        self.save(update_fields=["failed", "not_run"])
        self.refresh_from_db(fields=["failed", "not_run"])
        return given_up

    def close(self) -> bool:
        """Prepare the batch for its files: the pending requests of a cancelled one get that state. False when a worker
        may still commit answers, or the batch has ended."""
        with self._locked():
            if not Batch.objects.filter(pk=self.pk, status__in=CLOSING).free().exists():
                return False
            if self.status == BatchStatus.CANCELLING:
                self._give_up(RequestState.CANCELLED)
        return True

    def end(self, output_file: File | None, error_file: File | None) -> bool:
        """Enter the terminal state, with the files that were written. False when another worker was faster."""
        with self._locked():
            if self.status not in CLOSING:
                return False
            status = BatchStatus.CANCELLED if self.status == BatchStatus.CANCELLING else BatchStatus(self.outcome)
            self._enter(status, output_file=output_file, error_file=error_file, requests_per_second=None)
            self.note(f"{status.value.capitalize()}: {self.counts.words()}.")
            wake("index")
        return True

    def request_cancel(self) -> None:
        """Have the batch stop as soon as possible. Raises Conflict when it has ended in another way."""
        with self._locked():
            if self.status in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
                return
            if self.is_terminal:
                raise Conflict(f"Cannot cancel a batch with status '{self.status}'.", code="batch_not_cancellable")
            self._enter(BatchStatus.CANCELLING, outcome=BatchStatus.CANCELLED)
            self.note("Cancellation was asked for.")
            if Batch.objects.filter(UNHELD, pk=self.pk).release():
                self.leased_by = self.leased_until = None
                wake("finalize", self.pk)

    def set_priority(self, priority: int) -> None:
        """Change the priority: from -100 to 100, a higher one goes first, and a running batch makes way within seconds.
        Raises Conflict when it has ended, ValueError for another number."""
        if priority not in PRIORITIES:
            raise ValueError(f"{priority} is not a priority: it must be a whole number from -100 to 100")
        with self._locked():
            if self.is_terminal:
                raise Conflict(
                    f"Cannot change the priority of a batch with status '{self.status}'.", code="batch_ended"
                )
            if self.priority != priority:
                before, self.priority = self.priority, priority
                self.save(update_fields=["priority"])
                self.note(f"Its priority was changed from {before} to {priority}.")
                wake("gpu")

    def rename(self, name: str) -> None:
        """Give it another name, also when it has ended."""
        with self._locked():
            if self.name != name:
                self.name = name
                self.save(update_fields=["name"])
                self.note(f"Its name was changed to {name!r}.")

    def hide(self) -> None:
        """Hide the batch, which its owner has deleted, and cancel it if it has not ended."""
        if not self.is_terminal:
            self.request_cancel()
        Batch.objects.filter(pk=self.pk).update(hidden=True)
        self.hidden = True

    def _release(self) -> None:
        self.leased_by = self.leased_until = None
        self.save(update_fields=["leased_by", "leased_until"])

    def release(self, worker: uuid.UUID) -> None:
        """Release the lease with work left, so that any worker can claim the batch."""
        if Batch.objects.filter(pk=self.pk).of(worker).release():
            wake("gpu")

    def stumble(self) -> int:
        """Count an unforeseen error. Returns how many there were."""
        Batch.objects.filter(pk=self.pk).update(stumbles=F("stumbles") + 1)
        self.refresh_from_db(fields=["stumbles"])
        return self.stumbles

    def postpone(self, worker: uuid.UUID, seconds: float) -> None:
        """Release the lease, but let no worker claim the batch for so many seconds."""
        Batch.objects.filter(pk=self.pk).of(worker).postpone(seconds)

    def retry(self, created_by: str = "") -> "Batch":
        """A new batch of the requests without a good answer: those that failed, and those that were not run. Raises
        Conflict when there is none."""
        if not self.is_terminal:
            raise Conflict(f"Cannot retry a batch with status '{self.status}': wait until it has ended.")
        if self.purged_at or self.input_file is None or self.input_file.purged_at:
            raise Conflict(
                "Cannot retry this batch: its requests are no longer kept. Send them again as a new batch.",
                code="requests_expired",
            )
        if not self.requests.filter(state__in=RequestState.retryable()).exists():
            why = "every request of this batch has a good answer" if self.total else "it has no requests"
            raise Conflict(f"There is nothing to retry: {why}.")
        again = Batch(
            name=self.name,
            project=self.project,
            input_file_id_given=self.input_file_id_given,
            input_file=self.input_file,
            endpoint=self.endpoint,
            completion_window=self.completion_window,
            metadata=self.metadata,
            priority=self.priority,
            default_model=self.default_model,
            output_seconds=self.output_seconds,
            retry_of=self,
            created_by=created_by,
            expires_at=timezone.now() + (self.expires_at - self.created_at),
        )
        with transaction.atomic():
            Batch.objects.select_for_update().get(pk=self.pk)  # so that the second of two retries finds the first
            if (other := self.retries.live().first()) is not None:
                raise Conflict(
                    f"This batch is being retried already, by {other.pk}. Wait until that one has ended.",
                    code="batch_being_retried",
                )
            again.save(force_insert=True)
            again.note(f"Created to retry {self.pk}.")
            wake("validate", again.pk)
        return again


def _first_of(errors: list[dict[str, Any]]) -> str:
    """The first error with its line, and whether there are more."""
    if not errors:
        return "no reason given"
    message, line = errors[0]["message"], errors[0].get("line")
    told = f"line {line}: {message}" if line else str(message)
    return f"{told} The others are in the batch's errors." if len(errors) > 1 else told


class BatchEvent(models.Model):
    """The log of one batch."""

    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField(default=timezone.now)
    level = models.CharField(max_length=8, default="info")
    message = models.TextField()

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.level.upper()} {self.message}"
