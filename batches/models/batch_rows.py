"""Which batches are there: what waits, what runs, what has ended, what needs a model."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from django.db.models import BooleanField, F, Q
from django.db.models.expressions import RawSQL

from batches.models.requests import RequestState
from batches.models.statuses import RUNNABLE, TERMINAL, BatchStatus
from vbs.accounts.models import Project
from vbs.leases import UNHELD, LeasedQuerySet

if TYPE_CHECKING:
    from batches.models.batches import Batch

CANDIDATES = 200  # batches that are read to find the next
OF_A_KIND = 50  # batches of each kind behind them that may overtake them, and are read too
AT_ONCE = 1000  # batches that are ended in one sweep

# Whether a batch has a model that is one of the names, or is none of them, with requests left. A single one has some.
_FOR_THESE = f"""
EXISTS (
    SELECT FROM jsonb_array_elements_text(batches_batch.model_names) WITH ORDINALITY AS part (name, place)
    WHERE coalesce(
        (SELECT one ->> 'model' FROM jsonb_array_elements(batches_batch.resolved) one
         WHERE one ->> 'asked' = part.name LIMIT 1),
        part.name
    ) = ANY(%s) AND (
        jsonb_array_length(batches_batch.model_names) = 1
        OR EXISTS (
            SELECT FROM batches_batchrequest request
            WHERE request.batch_id = batches_batch.id AND request.model_index = part.place - 1
            AND request.state = {RequestState.PENDING.value}
        )
    )
)"""  # noqa: S608  (a number only)
_FOR_OTHERS = _FOR_THESE.replace("= ANY(%s)", "<> ALL(%s)")


class BatchQuerySet(LeasedQuerySet["Batch"]):
    def visible(self, project: Project) -> "BatchQuerySet":
        return self.filter(project=project, hidden=False)

    def live(self) -> "BatchQuerySet":
        return self.exclude(status__in=TERMINAL)

    def waiting(self) -> "BatchQuerySet":
        """Batches that are validated, have requests left to run, and that no worker has, in the order of the queue."""
        return (
            self.filter(status__in=RUNNABLE, validated_at__isnull=False, total__gt=F("completed") + F("failed"))
            .free()
            .with_holding()
            .order_by("-priority", "validated_at", "id")
        )

    def candidates(self, names: Collection[str], before: datetime, most: int = CANDIDATES) -> list["Batch"]:
        """The first `most` batches that wait, and some others that may overtake them; the queue may have any length.

        names: of models and aliases that the loaded engine serves. before: deadlines up to this time are near. The
        arbiter's rules (`choose`) put priority first, and then the longest wait: of all batches, of those with a near
        deadline, of those for the loaded model, and of those that are both. Some of each kind are read, and some that
        have started, because a batch may turn out to need another model than its names say.
        """
        rows = self.waiting()
        first = list(rows[:most])
        if len(first) < most:
            return first
        equal = rows.filter(priority=first[-1].priority)
        due, served = Q(expires_at__lt=before), Q(model_names__has_any_keys=list(names))
        found = {batch.pk: batch for batch in first}
        for kind in (due, served, due & served, Q(status=BatchStatus.IN_PROGRESS)):
            found |= {batch.pk: batch for batch in equal.filter(kind)[:OF_A_KIND]}
        return list(found.values())

    def all_answered(self) -> "BatchQuerySet":
        """Batches all of whose requests have ended, and that no worker has."""
        return self.filter(
            UNHELD,
            status__in=RUNNABLE,
            validated_at__isnull=False,
            total__lte=F("completed") + F("failed"),
        )

    def finish_all_answered(self) -> None:
        """Finish the batches all of whose requests have ended. That needs no GPU, so it also happens in a pause."""
        for batch in self.all_answered()[:AT_ONCE]:
            batch.finish()

    def not_needing(self, names: Collection[str]) -> "BatchQuerySet":
        """Leaves out the batches that need a model of one of these names.

        A batch that has started with an alias is left in: the caller looks at its `pinned_names`.
        """
        if not names:
            return self
        needs = Q(resolved=[], model_names__has_any_keys=list(names))
        for name in names:
            needs |= Q(resolved__contains=[{"model": name}])
        return self.exclude(needs)

    def with_requests_for(self, names: Collection[str]) -> "BatchQuerySet":
        """Those that have requests left for a model of one of these names. A batch that has started with a model needs
        that one, whatever its names stand for by now."""
        there = Q(model_names__has_any_keys=list(names)) | Q(status=BatchStatus.IN_PROGRESS)
        return self.filter(there, RawSQL(_FOR_THESE, [list(names)], BooleanField()))  # noqa: S611  (a constant)

    def with_requests_for_others(self, names: Collection[str]) -> "BatchQuerySet":
        """Those that have requests left for a model of none of these names."""
        if not names:
            return self
        there = ~Q(model_names__contained_by=list(names)) | Q(status=BatchStatus.IN_PROGRESS)
        return self.filter(there, RawSQL(_FOR_OTHERS, [list(names)], BooleanField()))  # noqa: S611  (a constant)

    def running(self) -> "BatchQuerySet":
        """Batches that workers have, in the order of the queue. A worker may have many at once, on one engine."""
        held = self.filter(status__in=RUNNABLE).held().with_holding()
        return held.order_by("-priority", "validated_at", "id")

    def reasons_to_keep(self, names: Iterable[str]) -> list[str]:
        """The batches that need a model or alias of these names, in words, so that it cannot be removed."""
        needs = Q(pk=None)
        for name in names:
            needs |= Q(model_names__contains=[name]) | Q(resolved__contains=[{"model": name}])
        found = self.live().filter(needs).values_list("pk", "status")
        return [f"batch {pk} ({status})" for pk, status in found[:10]]
