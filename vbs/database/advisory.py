"""PostgreSQL's advisory locks. A caller tries one and never waits for it; a frozen session loses its locks."""

import logging

from django.db import connection

log = logging.getLogger(__name__)


def try_lock(name: str, kind: int, seconds: int, *, session: bool = False) -> bool:
    """Take the lock of this name and kind until the transaction ends, or with `session` until the session ends.

    False while another session has it. A session that has sent no statement for so many seconds is ended first.
    """
    if _try(name, kind, session):
        return True
    # A session within COPY does not time out: it waits for its client, and that may have been stopped.
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid, pg_terminate_backend(pid, 1000) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pid <> pg_backend_pid() "
            "AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND (classid::bigint << 32) | objid::bigint = hashtextextended(%s, %s) "
            "AND wait_event = 'ClientRead' AND query_start < clock_timestamp() - make_interval(secs => %s)",
            [name, kind, seconds],
        )
        ended = [pid for pid, done in cursor.fetchall() if done]
    if not ended:
        return False
    log.warning("Ended the session of a worker that was silent for %s s with the lock of %s", seconds, name)
    return _try(name, kind, session)


def unlock(name: str, kind: int) -> None:
    """Give back a lock that was taken for the session."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, %s))", [name, kind])


def _try(name: str, kind: int, session: bool) -> bool:
    function = "pg_try_advisory_lock" if session else "pg_try_advisory_xact_lock"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {function}(hashtextextended(%s, %s))", [name, kind])
        return bool(cursor.fetchone()[0])
