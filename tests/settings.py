"""The settings under test, on a data folder of each process's own: chosen before vbs.settings reads the environment."""

import atexit
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

from vbs.run import postgres

PREFIX = "vbs-tests-"


def remove(folder: Path) -> None:
    postgres.stop(folder)
    shutil.rmtree(folder, ignore_errors=True)


def remove_those_of_the_dead() -> None:
    """What sessions that were killed have left: nobody holds their lock."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/lock"):
        try:
            with path.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(path.parent)
        except OSError:  # in use, or of another user
            continue


def make() -> tuple[Path, IO[str]]:
    """A folder for this process, and its lock. Nobody takes it for one of the dead before we hold that."""
    with (Path(tempfile.gettempdir()) / f"{PREFIX}{os.getuid()}.lock").open("w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        remove_those_of_the_dead()
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        folder.chmod(0o711)  # PostgreSQL, which is not root, passes through
        lock = (folder / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


DATA, LOCK = make()
OWNER = os.getpid()
atexit.register(lambda: remove(DATA) if os.getpid() == OWNER else None)

os.environ["VBS_DATA_DIR"] = str(DATA)
os.environ["VBS_SCRIPTED_ENGINE"] = "true"
os.environ["DJANGO_SETTINGS_MODULE"] = "vbs.settings"  # for the processes that tests start

from vbs.settings import *  # noqa: E402, F403
from vbs.settings import STORAGES as _STORAGES  # noqa: E402

# The manifest of static files is made by `manage.py prepare`, which the tests do not run.
STORAGES = _STORAGES | {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the usual one takes its time, as it should

(DATA / "static").mkdir()  # or each client warns that there is none
