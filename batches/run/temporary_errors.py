"""Errors around a batch that may pass, such as a full disk: they are written into the batch's log, and it is tried
again."""

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


class InputUnreadable(Exception):
    """The input file cannot be read now; the exception's cause says why."""


def exceptions() -> tuple[type[Exception], ...]:
    """The exceptions after which a batch is postponed."""
    return (InputUnreadable, *blobs.troubles())


def describe(error: BaseException) -> str:
    """The error in words, without paths and addresses of the server: the owner of the batch reads its log."""
    if space.is_full(error):
        return space.WORDS
    if isinstance(error, OSError) and error.errno is not None:
        return WORDS.get(error.errno, error.strerror or type(error).__name__)
    return f"the storage cannot be reached ({type(error).__name__})"


def interruption(error: BaseException, input_file: str) -> str:
    """A line for the log of a batch that this error has interrupted. input_file: its name."""
    what = describe(error)
    if isinstance(error, InputUnreadable) and error.__cause__:
        what = f"the input file {input_file} cannot be read, {describe(error.__cause__)}"
    return (
        f"Interrupted: {what}. The rest is tried again automatically, less and less often, until the batch expires. "
        "The answers so far are kept. The log of the gpu worker has the whole error."
    )


@contextmanager
def noted(batch_id: str, failed: str) -> Iterator[None]:
    """Note such an error of a task, which the sweep wakes again. failed: what it means, such as `Its files are not
    written`."""
    try:
        yield
    except blobs.troubles() as error:
        log.exception("Batch %s: %s", batch_id, failed)
        if batch := Batch.objects.filter(pk=batch_id).first():
            batch.note_once(f"{failed}: {describe(error)}. This is tried again every minute.", "warning")
