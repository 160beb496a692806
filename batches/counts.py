"""What became of a batch's requests, in numbers: the same for the API, the pages and the command line."""

from dataclasses import dataclass
from typing import Self

from vbs.openai.schema import BatchObject


@dataclass(frozen=True)
class Counts:
    """completed, failed: the lines of its two files. not_run: those that were not run and never will be, for it was
    cancelled, has expired, or failed before its first. Of the first two they are lines of the error file, so that
    `failed` has them too."""

    total: int
    completed: int
    failed: int
    not_run: int

    @classmethod
    def read(cls, batch: BatchObject) -> Self:
        """As a server tells them; one of an earlier version does not tell what was not run."""
        counts = batch["request_counts"]
        return cls(counts["total"], counts["completed"], counts["failed"], batch.get("not_run", 0))

    @property
    def failures(self) -> int:
        """Those that were run and failed."""
        return max(0, self.failed - self.not_run)

    @property
    def answered(self) -> int:
        """Those that were run to their end, good or bad."""
        return self.completed + self.failures

    @property
    def pending(self) -> int:
        """Those that are still to be run."""
        return self.total - self.answered - self.not_run

    def words(self) -> str:
        """`2 completed, 1 failed, 7 not run`"""
        rest = f", {self.not_run:,} not run" if self.not_run else ""
        return f"{self.completed:,} completed, {self.failures:,} failed{rest}"
