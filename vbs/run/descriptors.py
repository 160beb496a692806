"""How many files and connections this process may have open at once. Knows no Django and no setting."""

import errno
import logging
import resource
from pathlib import Path

logger = logging.getLogger(__name__)

WANTED = 65_536
ENOUGH = 4096  # for a full window of requests, or for all the connections that the web server takes
EXHAUSTED = {errno.EMFILE, errno.ENFILE}  # what OSError says when there is none left: in this process, on this machine


def limit() -> int:
    """Of open descriptors, for this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft


def left() -> int:
    """How many more this process may open."""
    return max(0, limit() - sum(1 for _ in Path("/proc/self/fd").iterdir()))


def raise_limit(wanted: int = WANTED) -> int:
    """Have the soft limit as high as the hard one allows, for us and for our children; returns what it is then.

    Many systems start services with 1,024, which dates from a time when more would have broken programs.
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
