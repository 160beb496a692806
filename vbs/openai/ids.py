"""Public ids: a prefix and 32 hex digits. They sort by when they were made: the primary key is the list order."""

import hashlib
import secrets
import time
from datetime import datetime
from functools import partial


def new_id(prefix: str) -> str:
    """E.g. `batch_0199f3…`: 48 bits of milliseconds since 1970, then 80 random bits."""
    return f"{prefix}{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def derived_id(prefix: str, moment: datetime, seed: str) -> str:
    """The same id each time for the same seed: work that is done again after a crash lands in the same place."""
    return f"{prefix}{int(moment.timestamp() * 1000):012x}{hashlib.sha256(seed.encode()).hexdigest()[:20]}"


def shown(given: str) -> str:
    """What somebody has sent in place of an id or a word, for a message: on one line, clipped."""
    clean = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in given[:100])
    return clean if len(given) <= 100 else f"{clean}…"


file_id = partial(new_id, "file-")
batch_id = partial(new_id, "batch_")
upload_id = partial(new_id, "upload_")
part_id = partial(new_id, "part_")
operation_id = partial(new_id, "op_")
