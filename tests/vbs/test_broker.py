"""The task queue: what waits already is not queued again, and nothing is lost by that."""

import threading

import pytest
from django.db import connection, transaction
from django_q.brokers import get_broker
from django_q.models import OrmQ

from vbs.broker import wake

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def broker():
    return get_broker("io")


def test_thousands_of_wakes_for_the_same_are_one():
    for _ in range(1000):
        wake("gpu")
        wake("validate", "batch_1")
    wake("validate", "batch_2")
    assert sorted((one.func(), one.args()) for one in OrmQ.objects.all()) == [
        ("batches.tasks.validate", ("batch_1",)),
        ("batches.tasks.validate", ("batch_2",)),
        ("models_registry.tasks.work", ()),
    ]


def test_what_was_handed_out_is_queued_again(broker):
    wake("sweep")
    assert broker._take() and not broker._take()
    wake("sweep")
    assert broker._take()


def test_a_wake_that_was_merged_comes_after_the_commit(broker):
    """Whoever takes it up has to see what the transaction has changed: until its commit nobody gets it."""
    wake("sweep")
    found = []

    def take():
        found.append(broker._take())
        connection.close()

    with transaction.atomic():
        wake("sweep")
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert found == [[]] and len(broker._take()) == 1 and not broker._take()


def test_two_at_once_do_not_wait_for_each_other():
    wake("sweep")

    def again():
        wake("sweep")
        connection.close()

    with transaction.atomic():
        wake("sweep")
        thread = threading.Thread(target=again)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
    assert OrmQ.objects.count() == 2


def test_a_wake_is_forgotten_with_its_transaction(broker):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        wake("sweep")
        raise ZeroDivisionError
    assert not broker._take()
