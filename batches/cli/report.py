"""A batch in words: its progress, its result and its errors. Tables are safe to print; other texts are not yet."""

from datetime import UTC, datetime, timedelta

from batches.counts import Counts
from vbs.cli.terminal import aligned
from vbs.openai.schema import BatchErrorItem, BatchObject, Progress, QueueObject, WorkerObject
from vbs.pages.plain import brief
from vbs.places import PROGRAM

SHOWN_ERRORS = 20
ROUGH = 10  # below this, a difference of whole seconds is too inexact
NAME = 40  # characters of a name, in a list


def duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else str(timedelta(seconds=round(seconds)))


def moment(unix: int | None) -> str:
    return "" if unix is None else f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M:%S} UTC"


def ended(batch: BatchObject) -> bool:
    return batch["status"] in ("completed", "failed", "expired", "cancelled")


def went_well(batch: BatchObject) -> bool:
    return batch["status"] == "completed" and not batch["request_counts"]["failed"]


# While it runs


def state(batch: BatchObject) -> str:
    """What happens to it, or how it ended, in the one word of the pages and the API."""
    return batch["progress"].get("phase") or batch["status"]  # a server of an earlier version tells no phase


def doing(batch: BatchObject, queue: QueueObject | None) -> str:
    """What happens to the batch now. `queue`: asked for only when the batch makes no progress."""
    word, position = state(batch), batch["queue_position"]
    if word == "validating":
        return word + _absent(queue, "io")
    if word == "queued":
        place = f", number {position}" if position else ""
        # A server of an earlier version has no such field.
        held = ", and the queue is paused" if queue and queue.get("paused") else ""
        return word + place + held + _absent(queue, "gpu")
    if word == "loading" and (loader := loading(batch, queue)):
        return loader["activity"][:1].lower() + loader["activity"][1:]
    return word


def starting(batch: BatchObject) -> bool:
    """A worker has the batch, and has sent no request yet."""
    return batch["queue_position"] == 0 and batch["status"] == "validating"


def loading(batch: BatchObject, queue: QueueObject | None) -> WorkerObject | None:
    """The worker that loads a model while this batch is on a worker. Of several workers, the one with this batch."""
    if queue is None or batch["queue_position"] != 0:
        return None
    found = [worker for worker in queue["workers"] if worker["alive"] and worker["state"] == "loading"]
    return max(found, key=lambda worker: batch["id"] in _at(worker), default=None)


def _at(worker: WorkerObject) -> list[str | None]:
    """A server of an earlier version names one batch, or none."""
    return [*worker.get("work_ids", ()), worker.get("work_id")]


def _absent(queue: QueueObject | None, cluster: str) -> str:
    if queue is None or any(worker["alive"] and worker["cluster"] == cluster for worker in queue["workers"]):
        return ""
    return f", but no {cluster} worker is there (see '{PROGRAM} status')"


def facts(batch: BatchObject) -> str:
    """`120/500, 2 failed, 8.1 requests/s, 51 tokens/s, 45 s left`"""
    counts, progress = Counts.read(batch), batch["progress"]
    if not counts.total:
        return ""
    said = [
        f"{counts.answered:,}/{counts.total:,}",
        f"{counts.failures:,} failed" if counts.failures else "",
        f"{counts.not_run:,} not run" if counts.not_run else "",
        speed(progress),
        "" if progress["eta_seconds"] is None else f"{duration(progress['eta_seconds'])} left",
    ]
    return ", ".join(filter(None, said))


def speed(progress: Progress) -> str:
    """`8.1 requests/s, 51 tokens/s`: the present speed while it runs, the average after its end."""
    requests, tokens = progress["requests_per_second"], progress["tokens_per_second"]
    if requests is None:
        return ""
    return f"{requests:,.1f} requests/s" + ("" if tokens is None else f", {tokens:,.0f} tokens/s")


# When it has ended


def running_seconds(batch: BatchObject) -> float | None:
    """From the first request to the end of the last one. Timestamps are in whole seconds; for a short run the server's
    rate gives a more exact value within them."""
    began = batch["in_progress_at"]
    end = batch["finalizing_at"] or batch["cancelling_at"]
    if began is None or end is None:
        return None
    rate, answered = batch["progress"]["requests_per_second"], Counts.read(batch).answered
    if end - began < ROUGH and rate and answered:
        return min(max(answered / rate, end - began - 1), end - began + 1)
    return float(end - began)


def summary(batch: BatchObject, loading_seconds: float = 0.0) -> str:
    counts, usage, seconds = Counts.read(batch), batch["usage"], running_seconds(batch)
    end = batch["completed_at"] or batch["failed_at"] or batch["expired_at"] or batch["cancelled_at"]
    rows = [["status", state(batch)]]
    if end:
        shares = [f"running {duration(seconds)}"] if seconds is not None else []
        shares += [f"loading the model {duration(loading_seconds)}"] if loading_seconds else []
        rows.append(["time", duration(end - batch["created_at"]) + (f" ({', '.join(shares)})" if shares else "")])
    if counts.total:
        rows.append(["requests", counts.words()])
    if usage and usage["total_tokens"]:
        rows.append(["tokens", f"{usage['input_tokens']:,} input, {usage['output_tokens']:,} output"])
    rows += [
        ["speed", speed(batch["progress"]) if ended(batch) else ""],
        ["output", batch["output_file_id"] or ""],
        ["errors", batch["error_file_id"] or ""],
    ]
    return aligned([row for row in rows if row[1]])


def error_table(errors: list[BatchErrorItem]) -> str:
    """Why a batch failed validation."""
    rows = [["line", "code", "param", "message"]]
    rows += [
        ["" if error["line"] is None else str(error["line"]), error["code"], error["param"] or "", error["message"]]
        for error in errors[:SHOWN_ERRORS]
    ]
    more = len(errors) - SHOWN_ERRORS
    return aligned(rows, right=frozenset({0})) + (f"\n… and {more:,} more" if more > 0 else "")


# One, and many


def called(name: str | None, batch_id: str) -> str:
    """A batch by its name, with the id, which the commands take."""
    return f"{brief(name, NAME)} ({batch_id})" if name else batch_id


def details(batch: BatchObject) -> str:
    model = batch["model"] or ""
    metadata = ", ".join(f"{name}={value}" for name, value in (batch["metadata"] or {}).items())
    position = batch["queue_position"]
    rows = [
        ["name", batch.get("name") or ""],  # an older server has no names
        ["batch", batch["id"]],
        ["endpoint", batch["endpoint"]],
        ["model", model],
        ["priority", str(batch["priority"]) if batch["priority"] else ""],
        ["metadata", metadata],
        ["input", batch["input_file_id"]],
        ["created", moment(batch["created_at"])],
        ["expires", "" if ended(batch) else moment(batch["expires_at"])],
        ["queue", f"number {position}" if position else ""],
        ["progress", "" if ended(batch) else facts(batch)],
    ]
    return aligned([row for row in rows if row[1]]) + "\n" + summary(batch)


def listing(batches: list[BatchObject]) -> str:
    rows = [["name", "status", "done", "failed", "model", "created", "batch"]]
    for batch in batches:
        counts, made = Counts.read(batch), moment(batch["created_at"])
        done = f"{counts.answered:,}/{counts.total:,}"
        name = brief(batch.get("name") or "-", NAME)
        failed, model = f"{counts.failures:,}", batch["model"] or ""
        rows.append([name, state(batch), done, failed, model, made, batch["id"]])
    return aligned(rows, right=frozenset({2, 3}))
