import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.test import TransactionTestCase

from batches.queue import snapshot
from tests import tables
from tests.engines import add_model, close, gpu, home, lane, make_gpu, project, submitted  # noqa: F401
from tests.hostile import hostile  # noqa: F401
from tests.people import root  # noqa: F401
from tests.shares import ByStartedSystem, in_order
from vbs.configuration import runtime
from vbs.run import postgres


def pytest_configure() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to end in order, as by Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it would be ignored, also by children


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        items[:] = in_order(items)


@pytest.hookimpl(optionalhook=True)  # also where xdist is switched off
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByStartedSystem:
    config.option.loadscopereorder = False  # or those with the most tests would begin
    return ByStartedSystem(config, log)


@pytest.fixture(autouse=True)
def _nothing_from_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was set in the browser is read when a test changes it, not by the clock: queries can be counted."""
    snapshot.forget()
    monkeypatch.setattr(runtime, "FRESH_SECONDS", float("inf"))
    monkeypatch.setattr(runtime, "_known", {})
    runtime.forget()
    runtime._kept.get("overrides", float("inf"), dict)
    monkeypatch.setattr(runtime, "_said", "")


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> Iterator[None]:
    """An embedded server for the session, unless DATABASE_URL names one; started for the first test that needs it."""
    if settings.DATABASE_URL:
        yield
        return
    with postgres.in_use(settings.VBS_DATA_DIR):
        database = settings.DATABASES["default"]
        with psycopg.connect(
            host=database["HOST"], port=database["PORT"], user=database["USER"], dbname="postgres", autocommit=True
        ) as connection:
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):  # its machine may lose it all
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
        yield


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> None:
    with django_db_blocker.unblock():
        tables.keep()
    TransactionTestCase._fixture_teardown = lambda test: tables.put_back()  # type: ignore[attr-defined]
