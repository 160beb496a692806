"""How many files and connections this process may have open at once. Knows neither Django nor settings."""

import errno
import logging
import resource
from pathlib import Path

logger = logging.getLogger(__name__)

WANTED = 65_536
ENOUGH = 4096  # for a full window of requests, or for all the connections that the web server takes
EXHAUSTED = {errno.EMFILE, errno.ENFILE}  # what OSError says when there is none left: in this process, on this machine


def limit() -> int:
    """The limit of open descriptors of this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft


def left() -> int:
    """How many more this process may open."""
    return max(0, limit() - sum(1 for _ in Path("/proc/self/fd").iterdir()))


def raise_limit(wanted: int = WANTED) -> int:
    """Raise the soft limit to the hard one, for this process and its children. Returns the new limit.

    Many systems start services with a limit of 1,024, for old programs that fail with a higher one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    if (reached := limit()) < min(wanted, ENOUGH):
        logger.warning(
            "This process may open %d files and connections (ulimit -n): with fewer than %d it takes on less at once. "
            "Raise the hard limit where it is started (LimitNOFILE= of a systemd unit, --ulimit of a container).",
            reached, ENOUGH,
        )  # fmt: skip
    return reached
