"""What interactive requests took, by project, model and hour: counted in memory, and written every few seconds.

The same writes say of each worker when its engine was asked last, so that its batches leave places free, and of each
remote model whether its server answered then.
"""

import asyncio
import logging
import threading
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from models_registry.models import InteractiveUsage, Model, Worker
from vbs.accounts.models import Project
from vbs.database.outages import DATABASE_ERRORS

log = logging.getLogger(__name__)

WRITE_SECONDS = 4.0  # between two writes

_Key = tuple[int, str, datetime]  # project, model, hour


@dataclass
class _Sums:
    requests: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, other: "_Sums") -> None:
        self.requests += other.requests
        self.failed += other.failed
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens


class Ledger:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[_Key, _Sums] = {}
        self._running: Counter[uuid.UUID] = Counter()  # requests of each worker's engine
        self._asked: set[uuid.UUID] = set()  # since the last write
        self._servers: dict[str, tuple[str, str] | None] = {}  # by remote model: why its server has failed, or None
        self._writing: asyncio.Task[None] | None = None

    def began(self, worker: uuid.UUID | None) -> None:
        """A request goes to this worker's engine; None: to a remote server. It is called in the event loop."""
        if worker:
            with self._lock:
                self._running[worker] += 1
                self._asked.add(worker)
            self._wake()

    def ended(
        self,
        worker: uuid.UUID | None,
        project: Project,
        model: str,
        failed: bool = False,
        input_tokens: int = 0,
        output_tokens: int = 0,
    ) -> None:
        hour = timezone.now().replace(minute=0, second=0, microsecond=0)
        with self._lock:
            if worker:
                self._running[worker] -= 1
            sums = self._sums.setdefault((project.pk, model, hour), _Sums())
            sums.add(_Sums(1, int(failed), input_tokens, output_tokens))
        self._wake()

    def server_answered(self, model: str) -> None:
        """The server of this remote model has answered."""
        with self._lock:
            self._servers[model] = None

    def server_failed(self, model: str, why: str, public: str) -> None:
        """It has failed. public: why, in words that everybody may read."""
        with self._lock:
            self._servers[model] = why, public

    def _wake(self) -> None:
        if self._writing is None or self._writing.done() or self._writing.get_loop() is not asyncio.get_running_loop():
            self._writing = asyncio.create_task(self._write_for_a_while())

    async def _write_for_a_while(self) -> None:
        """Write as long as there is something to write; the next request begins anew."""
        while True:
            await asyncio.to_thread(self.write_and_close)
            await asyncio.sleep(WRITE_SECONDS)
            with self._lock:
                if not (self._sums or self._asked or self._servers or +self._running):
                    return

    def write_and_close(self) -> None:
        """Write in a thread that is not Django's, or at the end of the process."""
        try:
            self.write()
        finally:
            connection.close()

    def write(self) -> None:
        """Write what was counted since the last write. While the database is away, it is kept."""
        with self._lock:
            sums, self._sums = self._sums, {}
            self._running = +self._running
            asked, self._asked = self._asked | set(self._running), set()
            servers, self._servers = self._servers, {}
        try:
            if asked:
                Worker.objects.filter(pk__in=asked).update(asked_at=Now())
            for name, failure in servers.items():
                rows = Model.objects.filter(name=name)
                if failure:
                    rows.server_fails(*failure)
                else:
                    rows.server_answers()
            if sums:
                _add(sums)
        except DATABASE_ERRORS as error:
            log.warning("Direct requests: what they took is written later: %s", str(error).strip())
            with self._lock:
                for key, one in sums.items():
                    self._sums.setdefault(key, _Sums()).add(one)
                self._asked |= asked
                self._servers = servers | self._servers


ledger = Ledger()


def _add(sums: dict[_Key, _Sums]) -> None:
    """Add to the rows, which other web processes add to as well. A project that was removed meanwhile has none."""
    table, projects = InteractiveUsage._meta.db_table, Project._meta.db_table
    statement = f"""
        INSERT INTO {table} AS kept (project_id, model, hour, requests, failed, input_tokens, output_tokens)
        SELECT id, %s, %s, %s, %s, %s, %s FROM {projects} WHERE id = %s FOR KEY SHARE
        ON CONFLICT (project_id, model, hour) DO UPDATE SET
            requests = kept.requests + EXCLUDED.requests,
            failed = kept.failed + EXCLUDED.failed,
            input_tokens = kept.input_tokens + EXCLUDED.input_tokens,
            output_tokens = kept.output_tokens + EXCLUDED.output_tokens
    """  # noqa: S608  (names of our own tables)
    rows = [
        (model, hour, one.requests, one.failed, one.input_tokens, one.output_tokens, project)
        for (project, model, hour), one in sorted(sums.items(), key=lambda item: item[0])
    ]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.executemany(statement, rows)
