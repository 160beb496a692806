"""The task queue's broker: a task is a wake-up, and PostgreSQL's NOTIFY brings it to a cluster at once.

A lost task does no harm (the tables hold the state, and the upkeep finds what was left undone), so the broker deletes a
task when it hands it out. A task that is enqueued in a transaction is visible, and wakes a cluster, after the commit.
The same task is not queued twice, so that a busy cluster does not find thousands.
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
IDLE_SECONDS = 0.5  # how long an idle cluster takes to notice that it should stop


def wake(task: str, *args: str) -> None:
    """Run a task soon. In a transaction it is queued at the commit, and not after a rollback."""
    from django_q.tasks import async_task

    known = TASKS[task]
    async_task(known.function, *args, cluster=known.cluster)


class Listener:
    """Hears when a task is queued for a cluster. It is a connection of its own, and raises psycopg's errors."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self._connection: psycopg.Connection[Any] | None = None

    def listen(self) -> None:
        """From now on nothing is missed."""
        database = connections["default"].get_connection_params()
        database = {name: value for name, value in database.items() if name not in ("cursor_factory", "context")}
        self._connection = psycopg.connect(**database, autocommit=True)
        self._connection.execute(f"LISTEN {CHANNEL}")

    def wait(self, seconds: float) -> bool:
        """Wait until a task is queued, for so many seconds at most. False when none was. The first call of a new
        connection returns at once, because something may have been missed before it."""
        if self._connection is None:
            self.listen()
            return True
        return any(notify.payload == self.cluster for notify in self._connection.notifies(timeout=seconds))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class PostgresBroker(ORM):
    """django-q2's ORM broker, which takes tasks with `DELETE … SKIP LOCKED` and waits for them with LISTEN."""

    _listener: "Listener | None" = None

    def enqueue(self, task: str) -> int:
        """Queue a task. Returns its number, or the number of the same task when that waits already.

        A waiting task is locked until our commit, and a locked task is not handed out, so the worker that gets it sees
        our changes. When another transaction has locked it, the task is queued a second time.
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
                self._listener = Listener(self.list_key)
                self._listener.listen()
            if taken := self._take():
                return taken
            self._listener.wait(IDLE_SECONDS)
        except (*DATABASE_ERRORS, psycopg.OperationalError) as error:
            log.warning("Task queue: the database cannot be reached: %s", first_line(error))
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

    def _drop(self) -> None:
        connections["default"].close()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def acknowledge(self, task_id: int) -> None:
        """Does nothing: the task was deleted from the queue when it was handed out."""

    fail = acknowledge


def is_worker_of(cluster: str) -> bool:
    from django_q.conf import Conf

    return bool(settings.Q_CLUSTER) and cluster == Conf.CLUSTER_NAME
