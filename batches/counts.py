"""The counts of a batch's requests by their outcome, for the API, the pages and the command line."""

from dataclasses import dataclass
from typing import Self

from vbs.openai.schema import BatchObject


@dataclass(frozen=True)
class Counts:
    """completed, failed: lines of the output file, and of the error file. not_run: requests that will not be run,
    because the batch was cancelled, has expired, or failed before its first request. Those of a cancelled or expired
    batch are in the error file too, so `failed` includes them."""

    total: int
    completed: int
    failed: int
    not_run: int

    @classmethod
    def read(cls, batch: BatchObject) -> Self:
        """The counts in an answer of the API; a server of an earlier version has no `not_run`."""
        counts = batch["request_counts"]
        return cls(counts["total"], counts["completed"], counts["failed"], batch.get("not_run", 0))

    @property
    def failures(self) -> int:
        """Requests that were run and failed."""
        return max(0, self.failed - self.not_run)

    @property
    def answered(self) -> int:
        """Requests that were run and have ended, well or not."""
        return self.completed + self.failures

    @property
    def pending(self) -> int:
        """Requests that are still to be run."""
        return self.total - self.answered - self.not_run

    def words(self) -> str:
        """`2 completed, 1 failed, 7 not run`"""
        rest = f", {self.not_run:,} not run" if self.not_run else ""
        return f"{self.completed:,} completed, {self.failures:,} failed{rest}"
