"""Is everything ready that vbs needs: the database, its workers, the storage of files?"""

import threading
import uuid

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import DatabaseError

from models_registry.models import Worker
from vbs.timed_cache import Kept

OK = "ok"


def parts() -> dict[str, str]:
    """The state of each by its name: `ok`, or what is wrong."""
    found = {"database": OK}
    try:
        alive = set(Worker.objects.alive().values_list("cluster", flat=True))
        found |= {f"{cluster}_worker": OK if cluster in alive else "no heartbeat" for cluster in ("io", "gpu")}
    except DatabaseError:
        found = {"database": "unreachable", "io_worker": "unknown", "gpu_worker": "unknown"}
    return found | {"storage": storage()}


def storage() -> str:
    try:
        name = default_storage.save(f"probe/{uuid.uuid4().hex}", ContentFile(b"ok"))
        default_storage.delete(name)
    except Exception as error:  # a remote storage fails in many ways, and each means that it is not ready
        return f"not writable: {type(error).__name__}"
    return OK


class Storage:
    """What the storage answered lately, for who asks often. It is asked in a thread: a distant one may hang."""

    FRESH_SECONDS, PATIENCE_SECONDS = 20.0, 2.0

    def __init__(self) -> None:
        self._kept: Kept[str] = Kept()
        self._asking: threading.Thread | None = None
        self._answer = ""

    def state(self) -> str:
        return self._kept.get("state", self.FRESH_SECONDS, self._asked)

    def _asked(self) -> str:
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._ask, name="storage", daemon=True)
            self._asking.start()
        self._asking.join(self.PATIENCE_SECONDS)
        return "does not answer" if self._asking.is_alive() else self._answer

    def _ask(self) -> None:
        self._answer = storage()


STORAGE = Storage()
