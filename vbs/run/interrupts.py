"""Signals that end a program in order: each raises an exception in the main thread, again until it is heard.

Once is not enough. Python drops what is raised while it finalises an object, and a signal may come just then: in the
`close()` of an HTTP response that nobody has closed, it would be lost without a word.
"""

import signal
import time
import weakref
from collections.abc import Callable, Iterable
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_SECONDS = 0.5
PATIENCE_SECONDS = 20.0  # longer than any stop in order takes


class Interrupted(KeyboardInterrupt):
    """As Ctrl-C raises it. Unlike the built-in class, it has weak references."""


class Ended(SystemExit):
    """As `sys.exit` raises it. Unlike the built-in class, it has weak references."""


def listen(
    numbers: Iterable[signal.Signals] = SIGNALS, error: Callable[[int], BaseException] = lambda number: Interrupted()
) -> None:
    """Have each of these signals raise the `error` of its number, an Interrupted or an Ended, until `ignore`.

    While one is on its way, no other is raised: what an `except` or a `finally` does because of it is not interrupted,
    unless it hangs and a signal comes after 20 s. When nobody has it any more, it may have been dropped, and another is
    raised. So whoever catches it for good calls `ignore`. The repetition needs SIGALRM and its timer.
    """
    raised: weakref.ref[BaseException] | None = None
    patient_until = 0.0

    def on_its_way() -> bool:
        return raised is not None and raised() is not None

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal raised, patient_until
        if on_its_way() and time.monotonic() < patient_until:
            return
        patient_until = time.monotonic() + PATIENCE_SECONDS

        def again(alarm: int, frame: FrameType | None) -> None:
            if not on_its_way():
                hear(number, frame)

        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS, AGAIN_SECONDS)
        one = error(number)
        raised = weakref.ref(one)
        try:
            raise one
        finally:
            del one  # the traceback has this frame, so it would keep itself

    for number in numbers:
        signal.signal(number, hear)


def ignore(numbers: Iterable[signal.Signals] = SIGNALS) -> None:
    """Once was enough: from now on these signals raise nothing."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGALRM, *numbers):
        signal.signal(number, signal.SIG_IGN)
