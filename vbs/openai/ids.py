"""Public ids: a prefix and 32 hex digits. They sort by the time at which they were made, as lists do."""

import hashlib
import secrets
import time
from datetime import datetime
from functools import partial


def new_id(prefix: str) -> str:
    """E.g. `batch_0199f3…`: 48 bits of milliseconds since 1970, then 80 random bits."""
    return f"{prefix}{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def derived_id(prefix: str, moment: datetime, seed: str) -> str:
    """The same id for the same moment and seed, so that work that is done again after a crash gets the same ids."""
    return f"{prefix}{int(moment.timestamp() * 1000):012x}{hashlib.sha256(seed.encode()).hexdigest()[:20]}"


def shown(given: str) -> str:
    """A text that a client sent, as a message can show it: on one line and at most 100 characters long."""
    clean = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in given[:100])
    return clean if len(given) <= 100 else f"{clean}…"


file_id = partial(new_id, "file-")
batch_id = partial(new_id, "batch_")
upload_id = partial(new_id, "upload_")
part_id = partial(new_id, "part_")
operation_id = partial(new_id, "op_")
