"""How long a session of the database waits, works and rests: whoever is frozen within a transaction loses it.

PostgreSQL ends a session that rests too long within a transaction, and so frees its locks; a statement that waits for
a lock, or that takes too long, is ended with an error. What becomes of these errors is in vbs/database/outages.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import connection


@dataclass(frozen=True)
class Timeouts:
    """In seconds; 0: for ever. lock: to wait for one. statement: for one. idle: between two of a transaction."""

    lock: int
    statement: int
    idle: int

    def options(self) -> str:
        """As libpq sends them when it connects: in force at once, and whoever lends the connection out keeps them."""
        values = {
            "lock_timeout": self.lock,
            "statement_timeout": self.statement,
            "idle_in_transaction_session_timeout": self.idle,
        }
        return " ".join(f"-c {name}={value}s" for name, value in values.items())


# Somebody waits for the web process. A worker is cut off before its lease is over, so that whoever takes its batch up
# gets the row. Commands may migrate, and build indexes.
OF = {
    "web": Timeouts(lock=5, statement=30, idle=10),
    "worker": Timeouts(lock=15, statement=300, idle=20),
    "command": Timeouts(lock=60, statement=0, idle=120),
}


@contextmanager
def longer(seconds: int) -> Iterator[None]:
    """Within a transaction: each statement, and the time between two, may take that long; then it is as before."""
    names = ("statement_timeout", "idle_in_transaction_session_timeout")
    with connection.cursor() as cursor:
        for name in names:
            cursor.execute("SELECT set_config(%s, %s, true)", [name, f"{seconds}s"])
    yield
    with connection.cursor() as cursor:  # after an error the transaction is over anyway
        for name in names:
            cursor.execute(f"SET LOCAL {name} TO DEFAULT")
