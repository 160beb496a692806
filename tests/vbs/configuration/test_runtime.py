"""Settings that can be changed while vbs runs: what holds, for whom, and what is never taken."""

import threading
import time

import pytest
from django.db import DatabaseError

from batches.api.serializers import BatchCreate
from models_registry.gpu import health
from vbs.configuration import runtime
from vbs.configuration.declared import SETTINGS
from vbs.configuration.models import Override
from vbs.configuration.windows import several

DAYS = "VBS_RETENTION_DAYS"


@pytest.fixture
def aging(monkeypatch):
    """As outside of tests: what is known is read again when it is old."""

    def age(seconds):
        monkeypatch.setattr(runtime, "FRESH_SECONDS", seconds)
        runtime.forget()

    return age


def test_the_environment_holds_until_something_is_set_and_again_after_a_reset(db, settings):
    settings.VBS_RETENTION_DAYS = 12
    assert runtime.value(DAYS) == 12
    assert runtime.change(DAYS, "7", "me") == (12, 7)
    assert runtime.value(DAYS) == 7 and settings.VBS_RETENTION_DAYS == 12
    assert runtime.change(DAYS, 8, "me") == (7, 8)
    assert runtime.reset(DAYS) == (8, 12) and runtime.value(DAYS) == 12
    assert runtime.reset(DAYS) is None
    row = Override.objects.first()
    assert row is None


def test_a_setting_that_is_read_once_is_refused():
    with pytest.raises(KeyError, match="VBS_PORT"):
        runtime.value("VBS_PORT")


def test_what_another_process_has_set_is_seen_when_it_is_old_enough(db, aging, settings):
    aging(0.2)
    assert runtime.value(DAYS) == settings.VBS_RETENTION_DAYS
    Override.objects.create(name=DAYS, value=3, changed_by="another process")
    time.sleep(0.25)
    assert runtime.value(DAYS) == 3


def test_reading_often_asks_the_database_once(db, django_assert_num_queries):
    runtime.forget()
    with django_assert_num_queries(1):
        for _ in range(50):
            runtime.value(DAYS)
            runtime.value("VBS_COMPLETION_WINDOWS")


def test_while_the_database_is_away_the_last_value_holds(db, monkeypatch, caplog):
    runtime.change(DAYS, 5, "me")
    assert runtime.value(DAYS) == 5

    def away():
        raise DatabaseError("out of reach")

    monkeypatch.setattr(Override.objects, "all", away)
    for _ in range(3):
        runtime.forget()
        assert runtime.value(DAYS) == 5
    assert caplog.text.count("out of reach") == 2, "it is said once: the words and their cause are one line"


def test_without_a_database_from_the_start_the_environment_holds(monkeypatch, settings):
    """No `db`: any query raises."""
    runtime.forget()
    assert runtime.value(DAYS) == settings.VBS_RETENTION_DAYS


def test_many_threads_get_the_same_and_none_fails(transactional_db, aging):
    from django.db import connection

    runtime.change(DAYS, 9, "me")
    aging(0.0)
    found, errors = set(), []

    def ask():
        try:
            for _ in range(20):
                found.add(runtime.value(DAYS))
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {9} and not errors


@pytest.mark.parametrize("wrong", [..., "many", -1, True, None, [1], {"a": 1}, 10**30, "1" * 5000])
@pytest.mark.parametrize("name", [one.name for one in SETTINGS.values() if one.changes and one.range])
def test_a_number_is_held_to_the_same_range_as_in_the_environment(db, name, wrong):
    too_small = int(SETTINGS[name].range.partition(" to ")[0]) - 1
    with pytest.raises(ValueError, match=r"Must be|valid integer|null"):
        runtime.change(name, too_small if wrong is ... else wrong, "me")
    assert not Override.objects.exists()


@pytest.mark.parametrize("wrong", ["", "Off", None, 1, ["off"], {"a": 1}])
def test_a_choice_is_one_of_those_of_the_environment(db, wrong):
    with pytest.raises(ValueError, match="one of off, loaded, swap"):
        runtime.change("VBS_INTERACTIVE", wrong, "me")
    assert runtime.change("VBS_INTERACTIVE", "off", "me") == ("loaded", "off")


@pytest.mark.parametrize(
    "wrong, words",
    [
        ("", "empty"),
        (" , ", "empty"),
        ("soon", "is not a time such as 24h"),
        ("24h,0h", "is not a time"),
        ("99999999d", "ten years"),
        ("000000000024h", "characters"),
        (["24h", 3], "valid list"),
        (24, "valid list"),
        (",".join(f"{n}h" for n in range(1, 30)), "at most 20"),
    ],
)
def test_windows_must_be_times(wrong, words):
    with pytest.raises(ValueError, match=words):
        several(wrong)


def test_windows_are_lists_without_the_same_twice():
    assert several(" 1h, 24h,1h,") == ["1h", "24h"]


def test_a_row_that_is_not_as_it_must_be_is_not_taken(db, settings, caplog):
    Override.objects.create(name=DAYS, value="for ever", changed_by="a shell")
    Override.objects.create(name="VBS_SECRET_KEY", value="mine", changed_by="a shell")
    runtime.forget()
    assert runtime.value(DAYS) == settings.VBS_RETENTION_DAYS
    assert "for ever" in caplog.text


def test_what_a_transaction_takes_back_was_never_set(transactional_db, settings):
    from django.db import transaction

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        runtime.change(DAYS, 4, "me")
        raise ZeroDivisionError
    runtime.forget()
    assert runtime.value(DAYS) == settings.VBS_RETENTION_DAYS


# Where they are read


def test_windows_that_clients_may_ask_for(db):
    given = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "1h"}
    assert not BatchCreate(data=given).is_valid()
    runtime.change("VBS_COMPLETION_WINDOWS", "24h,1h", "me")
    assert BatchCreate(data=given).is_valid()


def test_how_hot_a_gpu_may_be(db):
    device = {"name": "one", "temperature": 80, "memory_used": None, "memory_total": None}
    assert not health.why_wait({"devices": [device]}, loaded=True)
    runtime.change("VBS_GPU_MAX_CELSIUS", 70, "me")
    assert "the limit is 70 °C" in health.why_wait({"devices": [device]}, loaded=True)
