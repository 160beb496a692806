"""How long a session of the database may wait for a lock, run a statement, and be idle within a transaction.

PostgreSQL ends a statement that waits for a lock or runs for too long with an error. It ends a session that is idle for
too long within a transaction, which frees its locks. `vbs/database/outages.py` handles these errors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import connection


@dataclass(frozen=True)
class Timeouts:
    """Seconds; 0 is no limit. lock: to wait for one. statement: to run one. idle: between two of a transaction."""

    lock: int
    statement: int
    idle: int

    def options(self) -> str:
        """As libpq sends them when it connects: they are in force at once, and a pool does not reset them."""
        values = {
            "lock_timeout": self.lock,
            "statement_timeout": self.statement,
            "idle_in_transaction_session_timeout": self.idle,
        }
        return " ".join(f"-c {name}={value}s" for name, value in values.items())


# People wait for the web process. A worker's transaction ends before its lease does, so that the worker that takes the
# batch over can lock the row. Commands may migrate and build indexes.
OF = {
    "web": Timeouts(lock=5, statement=30, idle=10),
    "worker": Timeouts(lock=15, statement=300, idle=20),
    "command": Timeouts(lock=60, statement=0, idle=120),
}


@contextmanager
def longer(seconds: int) -> Iterator[None]:
    """Within a transaction, allow so many seconds for each statement and between two; then as before."""
    names = ("statement_timeout", "idle_in_transaction_session_timeout")
    with connection.cursor() as cursor:
        for name in names:
            cursor.execute("SELECT set_config(%s, %s, true)", [name, f"{seconds}s"])
    yield
    with connection.cursor() as cursor:  # not after an error, which ends the transaction and these settings with it
        for name in names:
            cursor.execute(f"SET LOCAL {name} TO DEFAULT")
