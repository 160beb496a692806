"""The task queue's broker: tasks are wake-ups, handed out once, at once, through PostgreSQL's NOTIFY.

Losing a task is harmless (the truth is in the tables, and a sweep finds what was left), so a task is taken out of the
queue when it is handed out. A task that is enqueued within a transaction becomes visible, and wakes, at its commit.
One that waits already is not queued again, so that a busy cluster does not find thousands.
"""

import logging
import time
from typing import Any

import psycopg
from django.conf import settings
from django.db import connection, connections
from django_q.brokers.orm import ORM
from django_q.models import OrmQ
from django_q.signing import SignedPackage

from vbs.database.outages import DATABASE_ERRORS, first_line
from vbs.tasks import TASKS

log = logging.getLogger(__name__)

CHANNEL = "vbs_wake"
IDLE_SECONDS = 0.5  # how long a waiting cluster takes to notice that it should stop


def wake(task: str, *args: str) -> None:
    """Have a task run soon. Within a transaction it is seen at the commit, and not at all after a rollback."""
    from django_q.tasks import async_task

    known = TASKS[task]
    async_task(known.function, *args, cluster=known.cluster)


class PostgresBroker(ORM):
    """django-q2's ORM broker with `DELETE … SKIP LOCKED` for polling and LISTEN for sleeping."""

    _listener: psycopg.Connection[Any] | None = None

    def enqueue(self, task: str) -> int:
        """Its number, or that of the same task that waits already.

        The other one is locked until our commit, and what is locked is not handed out: so whoever it wakes sees what
        we have changed. One that somebody else has locked is left alone, and there are two then.
        """
        self.get_connection()  # closes a stale connection
        made = SignedPackage.loads(task)
        wakes = f"{made['func']} {' '.join(map(str, made['args']))}"
        table = OrmQ._meta.db_table
        with connection.cursor() as cursor:
            cursor.execute(
                f"WITH there AS (SELECT id FROM {table} WHERE key = %(key)s AND wakes = %(wakes)s ORDER BY id LIMIT 1 "  # noqa: S608
                "FOR UPDATE SKIP LOCKED), "
                f"made AS (INSERT INTO {table} (key, payload, lock, wakes) SELECT %(key)s, %(task)s, now(), %(wakes)s "
                "WHERE NOT EXISTS (SELECT FROM there) RETURNING id) "
                "SELECT id, pg_notify(%(channel)s, %(key)s) FROM (TABLE there UNION ALL TABLE made) one",
                {"key": self.list_key, "wakes": wakes, "task": task, "channel": CHANNEL},
            )
            return int(cursor.fetchone()[0])

    def dequeue(self) -> list[tuple[int, str]] | None:
        try:
            if self._listener is None:
                self._listen()
            if taken := self._take():
                return taken
            self._sleep()
        except (*DATABASE_ERRORS, psycopg.OperationalError) as error:
            log.warning("The task queue is out of reach: %s", first_line(error))
            self._drop()
            time.sleep(IDLE_SECONDS)
        return None

    def _take(self) -> list[tuple[int, str]]:
        self.get_connection()  # closes a stale connection
        table = OrmQ._meta.db_table
        with connection.cursor() as cursor:
            cursor.execute(
                f"DELETE FROM {table} WHERE id = (SELECT id FROM {table} WHERE key = %s AND lock <= now() "  # noqa: S608
                "ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id, payload",
                [self.list_key],
            )
            return cursor.fetchall()

    def _listen(self) -> None:
        database = connections["default"].get_connection_params()
        database = {name: value for name, value in database.items() if name not in ("cursor_factory", "context")}
        self._listener = psycopg.connect(**database, autocommit=True)
        self._listener.execute(f"LISTEN {CHANNEL}")

    def _sleep(self) -> None:
        """Until somebody enqueues for this cluster, or a short while."""
        assert self._listener is not None
        for notify in self._listener.notifies(timeout=IDLE_SECONDS):
            if notify.payload == self.list_key:
                return

    def _drop(self) -> None:
        connections["default"].close()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def acknowledge(self, task_id: int) -> None:
        """Nothing to do: the task left the queue when it was handed out."""

    fail = acknowledge


def is_worker_of(cluster: str) -> bool:
    from django_q.conf import Conf

    return bool(settings.Q_CLUSTER) and cluster == Conf.CLUSTER_NAME
