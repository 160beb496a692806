"""What goes wrong around a batch and passes, a full disk for example: told in the batch's own log, and tried again."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from batches.files import blobs
from batches.models import Batch
from vbs.run import space

log = logging.getLogger(__name__)

WORDS = {
    errno.EMFILE: "no more files and connections may be open (ulimit -n)",
    errno.ENFILE: "no more files and connections may be open on this machine",
}


class Unread(Exception):
    """The input file of a batch cannot be read now; the cause says why."""


def passing() -> tuple[type[Exception], ...]:
    """What ends the run of a batch for a while."""
    return (Unread, *blobs.troubles())


def words(error: BaseException) -> str:
    """Without paths and addresses of the server: a batch's log is for whoever made it."""
    if space.is_full(error):
        return space.WORDS
    if isinstance(error, OSError) and error.errno is not None:
        return WORDS.get(error.errno, error.strerror or type(error).__name__)
    return f"the storage cannot be reached ({type(error).__name__})"


def interrupted(error: BaseException, input_file: str) -> str:
    """What happens to a batch whose run has met this. input_file: its name."""
    what = words(error)
    if isinstance(error, Unread) and error.__cause__:
        what = f"the input file {input_file} cannot be read, {words(error.__cause__)}"
    return (
        f"Interrupted: {what}. The rest is tried again by itself, ever more seldom, until the batch's time is over; "
        "what was answered is kept. The log of the gpu worker has the whole error."
    )


@contextmanager
def told(batch_id: str, failed: str) -> Iterator[None]:
    """Around a task that the sweep wakes again. failed: what it means for the batch: `Its files are not written`."""
    try:
        yield
    except blobs.troubles() as error:
        log.exception("%s: %s", batch_id, failed)
        if batch := Batch.objects.filter(pk=batch_id).first():
            batch.note_once(f"{failed}, which is tried again every minute: {words(error)}.", "warning")
