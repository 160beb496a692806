"""VBS_INTERACTIVE=swap: a request has its model loaded, and waits for that, within bounds."""

import threading

import pytest
from django.db import connection

from models_registry.models import Operation, OperationState
from models_registry.serving import engines
from tests.models_registry.serving.conftest import chat
from tests.models_registry.serving.test_forward import CHAT, error_of


@pytest.fixture(autouse=True)
def swap(settings):
    settings.VBS_INTERACTIVE = "swap"


@pytest.fixture
def working(served):
    """A GPU that does what waits, in a thread."""
    gpu = served()
    over = threading.Event()

    def work():
        try:
            while not over.wait(0.05):
                gpu.serve()
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    yield gpu
    over.set()
    thread.join()


def test_the_model_is_loaded_for_the_request(web, working, add_model):
    add_model("second")
    assert web.ask(CHAT, chat(model="second")).json()["choices"][0]["message"]["content"] == "one two three"
    asked = Operation.objects.get()
    assert (asked.kind, asked.priority, asked.asked_by, asked.model.name) == ("load", 100, "project project", "second")
    assert web.ask(CHAT, chat(model="second")).status == 200 and Operation.objects.count() == 1


def test_it_is_not_waited_for_ever(web, served, add_model, settings):
    served()
    add_model("second")
    settings.VBS_INTERACTIVE_SWAP_SECONDS = 1
    answer = web.ask(CHAT, chat(model="second"))
    assert "takes longer than requests wait" in error_of(answer, 503, "model_not_loaded")["message"]
    assert int(answer.headers["retry-after"]) > 0
    assert Operation.objects.get().state == OperationState.QUEUED, "the next request finds it loaded"
    web.ask(CHAT, chat(model="second"))
    assert Operation.objects.count() == 1, "and two ask for one load"


def test_a_model_that_cannot_be_loaded(web, working, add_model):
    add_model("broken", **{"fail-start": "CUDA_out_of_memory"})
    message = error_of(web.ask(CHAT, chat(model="broken")), 503, "model_not_loaded")["message"]
    assert "It could not be loaded." in message and "CUDA" not in message


def test_unknown_names_load_nothing(web, served):
    engines.forget()
    error_of(web.ask(CHAT, chat(model="nothing")), 404, "model_not_found")
    assert not Operation.objects.exists()
