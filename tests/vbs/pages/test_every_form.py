"""Every form survives a reload and a second click: what is sent twice is done once, by whatever address."""

import re
from datetime import timedelta

import pytest
from django.apps import apps
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from batches.models import Batch, BatchStatus, RequestState
from batches.queue import pauses
from models_registry.models import Model, Worker
from tests.batches.pages import shown
from tests.batches.pages.test_new_batch import check, fields, jsonl, line
from tests.models_registry.api.test_registry import tuned
from tests.models_registry.pages.test_models import server
from tests.people import person, superuser, text
from tests.vbs.pages.test_every_action import PAGES
from vbs.accounts.models import ApiKey, Project
from vbs.configuration import runtime

SERVER = "http://203.0.113.5:8000/v1"
# They read what they are given, or ask a model with it.
MAKE_NOTHING = {
    "batch-new-check", "batch-new-preview", "batch-new-report", "models-read", "models-plan", "playground-ask",
    "playground-code",
}  # fmt: skip
# What is sent again finds nothing to do it to.
GONE = {"model-remove"}
CHANGES_NO_ROW = {"project", "system-disk", "worker-restart"}  # but the session, the disk, and when it was asked for
# Of these a repetition leaves other rows: marks of forms, tasks to wake workers, and who did what.
NOT_COMPARED = {"keptanswer", "session", "ormq", "logentry", "auditentry", "success"}
MOVES = {"last_login", "last_used_at", "restart_asked_at", "changed_at"}


class World:
    """One of everything that a form may be about."""

    def __init__(self):
        self.root = superuser()
        self.project = Project.objects.get_or_create(name="default")[0]
        self.model = Model.objects.create(name="scripted", kind="scripted", engine_args={"max-num-seqs": 2})
        self.worker = Worker.objects.create(cluster="gpu", hostname="here", pid=1, model_name="scripted", engine_pid=7)
        self.key = ApiKey.objects.issue(self.project, "old")[0]
        self.other = person("viewer", self.project, name="other").user
        self.batch = shown.made(self.project, [shown.request("a")])
        self.ended = shown.made(self.project, [shown.request("a")])
        shown.answer(self.ended, 1, state=RequestState.FAILED)
        later = timezone.now() + timedelta(days=1)
        Batch.objects.filter(pk=self.ended.pk).update(status=BatchStatus.COMPLETED, expires_at=later)

    def mark(self, address, name="once", form="", data=None):
        """The mark of a form on this page."""
        page = self.root.get(address) if data is None else self.root.post(address, data)
        _, found, after = text(page).partition(f'action="{form}"') if form else ("", "x", text(page))
        assert found, f"{address} has no form for {form}"
        return {name: re.search(rf'name="{name}" value="([^"]+)"', after)[1]}


def new_batch(world):
    return fields(check(world.root, jsonl(line("a")), model="scripted")) | {"project": world.project.pk}


# By the name of the address: what goes into it, and what is sent
FORMS = {
    "batch-new": lambda world: ((), new_batch(world)),
    "batch-cancel": lambda world: ((world.batch.pk,), {}),
    "batch-name": lambda world: ((world.batch.pk,), {"name": "reviews"}),
    "batch-priority": lambda world: ((world.batch.pk,), {"priority": 7}),
    "batch-retry": lambda world: ((world.ended.pk,), {}),
    "batch-request-again": lambda world: (
        (world.ended.pk, 1),
        world.mark(f"/batches/{world.ended.pk}/requests/1", form=f"/batches/{world.ended.pk}/requests/1/again"),
    ),
    "queue-pause": lambda world: ((), {"reason": "a new card"}),
    "queue-resume": lambda world: ((), {"was": pauses.pause("root", "").pk}),
    "models-demo": lambda world: ((), {"next": "/"}),
    "models-add": lambda world: ((), server(task="chat") | world.mark("/models/read", data={"text": SERVER})),
    "model-act": lambda world: ((world.model.pk,), {"do": "load", "on": "model"}),
    "model-run": lambda world: (
        (world.model.pk,),
        {"test": "", "test-prompt": "hello", "test-max_tokens": 5}
        | world.mark(f"/models/{world.model.pk}/", "test-once"),
    ),
    "model-keep": lambda world: ((world.model.pk,), {"operation": tuned(world.model).pk}),
    "model-edit": lambda world: ((world.model.pk,), {"task": "chat", "notes": "new", "engine_args": "{}"}),
    "model-alias": lambda world: ((world.model.pk,), {"name": "latest"}),
    "model-remove": lambda world: ((Model.objects.create(name="old", kind="scripted").pk,), {}),
    "worker-restart": lambda world: ((world.worker.pk,), {}),
    "worker-engine": lambda world: ((world.worker.pk,), {}),
    "worker-free": lambda world: ((world.worker.pk,), {}),
    "system-disk": lambda world: ((), {"what": ["logs"]}),
    "keys": lambda world: (
        (), {"name": "new", "project": world.project.pk, "expires": "never"} | world.mark("/system/keys")
    ),
    "key-edit": lambda world: ((world.key.pk,), {"name": "newer", "expires": "never"}),
    "key-revoke": lambda world: ((world.key.pk,), {}),
    "people": lambda world: (
        (), {"name": "vera", "role": "viewer"} | world.mark("/system/people", form="/system/people")
    ),
    "person": lambda world: ((world.other.pk,), {"role": "operator"}),
    "person-password": lambda world: ((world.other.pk,), world.mark(f"/system/people/{world.other.pk}/password")),
    "person-active": lambda world: ((world.other.pk,), {"active": "no"}),
    "project-add": lambda world: ((), {"name": "new"} | world.mark("/system/people", form="/system/projects")),
    "project-edit": lambda world: ((Project.objects.create(name="old").pk,), {"name": "newer"}),
    "setting": lambda world: (("VBS_MAX_WAIT_MINUTES",), {"value": "12"}),
    "setting-reset": lambda world: (
        ("VBS_MAX_WAIT_MINUTES",), {"was": runtime.change("VBS_MAX_WAIT_MINUTES", 12, "root")}
    ),
    "project": lambda world: ((), {"project": world.project.pk}),
}  # fmt: skip


@pytest.fixture
def world(db, monkeypatch):
    monkeypatch.setattr("models_registry.catalog.sources.check_url", lambda url, private: None)
    return World()


def rows():
    """Every row of every table, but for what each sending leaves."""
    found = {}
    for model in apps.get_models(include_auto_created=True):
        if model._meta.model_name not in NOT_COMPARED and not model._meta.proxy:
            values = model._default_manager.order_by("pk").values()
            found[model._meta.label] = [{k: v for k, v in row.items() if k not in MOVES} for row in values]
    return found


def test_each_address_that_takes_a_form_is_tried_here(root):
    patient = Client(raise_request_exception=False)
    patient.cookies = root.cookies
    assert {
        name for name, address, _ in PAGES if patient.post(address).status_code != 405
    } == FORMS.keys() | MAKE_NOTHING


@pytest.mark.parametrize("name", FORMS)
def test_what_is_sent_twice_is_done_once(world, name):
    given, data = FORMS[name](world)
    address = reverse(name, args=given)
    before = rows()
    first = world.root.post(address, data)
    assert first.status_code in (200, 302), text(first)[:3000]
    once = rows()
    second = world.root.post(address, data, follow=True)
    assert rows() == once, "what was done is done again"
    assert second.status_code == (404 if name in GONE else 200), text(second)[:3000]
    assert 'class="message error"' not in text(second), "the second click is told that it failed"
    assert (before != once) == (name not in CHANGES_NO_ROW)
