"""Models of a hub are registered, planned and queued; leases, and what a state allows."""

import uuid

import pytest
from django.db.models.functions import Now
from django_q.models import OrmQ

from models_registry.catalog import add, made_folders, partial_files
from models_registry.catalog.folders import ModelError
from models_registry.hub import download_run, tokens
from models_registry.hub import downloads as fetch
from models_registry.models import Download, Model, ModelState
from tests.models_registry.hub.fetched import TOKEN, asked_for, fetched, is_whole, turn
from tests.models_registry.hubs import repository
from vbs.run import space

pytestmark = pytest.mark.django_db


# Registering


def test_a_draft_asks_nothing_of_the_network(settings):
    settings.VBS_HUB_URL = "http://127.0.0.1:9"
    model = fetch.add("m", "org/tiny", revision="v1", engine_args={"max-model-len": 100}, notes="n", license="mit")
    model.refresh_from_db()
    assert (model.state, model.kind, model.source, model.task) == ("draft", "vllm", "", "chat")
    assert (model.hub_id, model.hub_revision, model.engine_args) == ("org/tiny", "v1", {"max-model-len": 100})
    assert (model.notes, model.license) == ("n", "mit")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hub_id": ""}, "not the id"),
        ({"hub_id": "a/b/c"}, "not the id"),
        ({"hub_id": "../etc"}, "not the id"),
        ({"hub_id": "org/..x"}, "not the id"),
        ({"hub_id": "org/m\n"}, "not the id"),
        ({"hub_id": "org/m?x=1"}, "not the id"),
        ({"revision": "../x"}, "not the name of a branch"),
        ({"revision": "a b"}, "not the name of a branch"),
        ({"revision": "x" * 201}, "not the name of a branch"),
        ({"file": "model.bin"}, "not a .gguf file"),
        ({"file": "../m.gguf"}, "cannot have a file"),
        ({"file": "m-00001-of-00003.gguf"}, "one of several parts"),
        ({"name": "../m"}, "cannot be a model's name"),
        ({"name": ":" * 199}, "cannot be a model's name"),
        ({"name": "m" + ":" * 150}, "too long"),
        ({"task": "sing"}, "unknown task"),
        ({"engine_args": {"no-such-option": 1}}, "no-such-option"),
        ({"license": "x" * 101}, "licence"),
    ],
)
def test_what_cannot_be_registered(given, words):
    with pytest.raises(ModelError, match=words):
        fetch.add(**{"name": "m", "hub_id": "org/tiny"} | given)
    assert not Model.objects.exists()


def test_two_of_one_name():
    fetch.add("m", "org/tiny")
    with pytest.raises(ModelError, match="there is a model m already"):
        fetch.add("m", "org/other")


# Planning


def test_a_plan_says_what_it_takes_and_changes_nothing(served):
    content = repository(served, **{"pytorch_model.bin": b"x" * 1000, "picture.png": b"x"})
    model = fetch.add("m", "org/tiny")
    plan = fetch.plan(model)
    taken = {path: len(data) for path, data in content.items() if path not in ("pytorch_model.bin", "picture.png")}
    assert {file.path: file.size for file in plan.files} == taken
    assert (plan.bytes, plan.present, plan.need) == (sum(taken.values()), 0, sum(taken.values()))
    assert (plan.commit, plan.license, plan.gated) == (served.commit("org/tiny"), "apache-2.0", False)
    assert not Download.objects.exists()
    assert Model.objects.get().state == ModelState.DRAFT


def test_a_plan_for_what_is_not_registered_yet(served):
    repository(served)
    assert fetch.plan(Model(name="m", hub_id="org/tiny")).bytes
    with pytest.raises(ModelError, match="not the id"):
        fetch.plan(Model(name="m", hub_id="../../api"))


def test_what_is_there_twice_is_fetched_once(served):
    content = repository(served, **{"vocab.json": b"{}"})  # as tokenizer.json
    model = fetch.add("m", "org/tiny")
    assert fetch.plan(model).bytes == sum(map(len, content.values())) - 2
    fetched(model)
    is_whole(model, content)


def test_a_model_that_is_not_of_a_hub():
    model = add.add("m", "scripted:")
    for act in (fetch.plan, fetch.start):
        with pytest.raises(ModelError, match="not from a hub"):
            act(model)


def test_the_disk_is_too_small(served, monkeypatch):
    repository(served)
    model = fetch.add("m", "org/tiny")
    free = fetch.plan(model).need + space.RESERVE
    monkeypatch.setattr(fetch, "_disk_free", lambda: free - 1)
    assert not fetch.plan(model).fits
    with pytest.raises(ModelError, match=r"cannot hold m: it needs 0\.3 MiB and 1\.0 GiB stay free"):
        fetch.start(model)
    assert not Download.objects.exists()
    monkeypatch.setattr(fetch, "_disk_free", lambda: free)
    fetch.start(model)
    other = fetch.add("other", "org/tiny")
    with pytest.raises(ModelError, match=r"other downloads still need 0\.3 MiB"):
        fetch.start(other)


def test_a_gguf_file_needs_room_for_what_it_becomes(served):
    repository(served, "org/gguf", **{"m-Q4_K_M.gguf": b"GGUF" * 1000, "m-BF16.gguf": b"GGUF" * 1000})
    for file, bits in (("m-Q4_K_M.gguf", 4), ("m-BF16.gguf", 16)):
        plan = fetch.plan(Model(name="m", hub_id="org/gguf", hub_file=file))
        assert [one.path for one in plan.files] == [file]
        assert (plan.bytes, plan.need) == (4000, 4000 + 4000 * 16 // bits)


def test_a_gated_model_is_refused_before_it_begins(served, settings):
    content = repository(served)
    served.gated, served.tokens = {"org/tiny"}, {TOKEN}
    model = fetch.add("m", "org/tiny")
    assert fetch.plan(model).gated
    with pytest.raises(ModelError, match="ask for access"):
        fetch.start(model)
    assert Model.objects.get().state == ModelState.DRAFT
    settings.HF_TOKEN = TOKEN
    fetched(model)
    is_whole(model, content)
    assert {asked.token for asked in asked_for(served, "config.json") if asked.method == "GET"} == {TOKEN}


def test_access_that_is_withdrawn_meanwhile(served, settings):
    repository(served)
    served.tokens, settings.HF_TOKEN = {TOKEN}, TOKEN
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    served.tokens = {"another"}
    download = turn(model)
    assert (download.state, model.state) == ("failed", "failed")
    assert "does not accept the access token" in model.reason == download.reason
    assert TOKEN not in model.reason


def test_a_token_that_cannot_be_read_any_more(served, settings):
    repository(served)
    model = fetch.add("m", "org/tiny", token=tokens.keep("mine", TOKEN))
    served.tokens = {TOKEN}
    fetch.start(model)
    settings.SECRET_KEY = "another"
    assert "mine cannot be read" in turn(model).reason


def test_pickles_and_code_only_when_they_are_trusted(served, settings):
    settings.VBS_TRUST_REMOTE_CODE = True
    content = repository(served, **{"model.safetensors": None, "pytorch_model.bin": b"x", "modeling.py": b"x"})
    with pytest.raises(ModelError, match="pickles only"):
        fetch.start(fetch.add("m", "org/tiny"))
    trusting = fetch.add("trusting", "org/tiny", allow_pickle=True, trust_remote_code=True)
    fetched(trusting)
    is_whole(trusting, content)


def test_names_that_lead_elsewhere(served, tmp_path):
    repository(served)
    for path in ("../../../escaped.jinja", "/escaped.jinja", "a\0b.jinja"):
        served.extra = [{"rfilename": path, "size": 1, "blobId": "0" * 40}]
        with pytest.raises(ModelError, match="cannot have a file of that name"):
            fetch.start(fetch.add(f"m{len(path)}", "org/tiny"))
    assert not list(tmp_path.rglob("escaped*"))


def test_what_a_state_does_not_allow(served):
    repository(served)
    model = fetch.add("m", "org/tiny")
    for act in (fetch.pause, fetch.resume, fetch.cancel, fetch.retry):
        with pytest.raises(ModelError, match=r"no download.*draft"):
            act(model)
    fetch.start(model)
    for act in (fetch.resume, fetch.retry):
        with pytest.raises(ModelError, match="is queued"):
            act(model)
    fetch.pause(model)
    with pytest.raises(ModelError, match="is paused: it cannot be paused"):
        fetch.pause(model)
    fetch.resume(model)
    turn(model)
    for act in (fetch.pause, fetch.resume, fetch.cancel, fetch.retry):
        with pytest.raises(ModelError, match="is done"):
            act(model)
    with pytest.raises(ModelError, match="is ready"):
        fetch.start(model)


def test_start_twice(served):
    repository(served)
    model = fetch.add("m", "org/tiny")
    first, second = fetch.start(model), fetch.start(Model.objects.get())
    assert first == second
    assert Download.objects.count() == 1


# Leases and the queue


def test_only_one_at_a_time_has_it(served):
    repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    first, second = uuid.uuid4(), uuid.uuid4()
    assert download_run._claim(model.pk, first).attempts == 1
    assert download_run._claim(model.pk, second) is None
    assert download_run._claim(model.pk, first), "from before the database was away"
    Download.objects.update(leased_until=Now())
    assert download_run._claim(model.pk, second).attempts == 3
    assert download_run._claim(model.pk, first) is None


@pytest.mark.parametrize(("downloads", "workers", "most"), [(1, 4, 1), (3, 4, 3), (9, 4, 3), (9, 2, 1), (1, 1, 1)])
def test_so_many_at_once(served, settings, downloads, workers, most):
    settings.VBS_DOWNLOADS, settings.VBS_IO_WORKERS = downloads, workers
    repository(served)
    models = [fetch.add(f"m{number}", "org/tiny") for number in range(5)]
    for model in models:
        fetch.start(model)
    assert [download_run._claim(model.pk, uuid.uuid4()) is not None for model in models].count(True) == most


def test_whoever_ends_wakes_the_next(served):
    repository(served)
    first, second = fetch.add("first", "org/tiny"), fetch.add("second", "org/tiny")
    fetch.start(first)
    fetch.start(second)
    OrmQ.objects.all().delete()
    turn(first)
    assert [one.args() for one in OrmQ.objects.filter(key="io")] == [(str(second.pk),)]


def test_the_sweep_wakes_and_cleans(served):
    repository(served)
    models = {name: fetch.add(name, "org/tiny") for name in ("lost", "queued", "failed", "done", "draft")}
    for name in ("lost", "queued", "failed", "done"):
        fetch.start(models[name])
    Download.objects.filter(model=models["lost"]).update(state="running", leased_by=uuid.uuid4(), leased_until=Now())
    for name in ("failed", "done"):
        Download.objects.filter(model=models[name]).update(state=name)
    for name in (*models, "gone"):
        partial_files.folder_of(name).mkdir(parents=True)
    OrmQ.objects.all().delete()
    fetch.sweep()
    assert [one.args() for one in OrmQ.objects.all()] == [(str(models["lost"].pk),)], "the oldest; one at once"
    assert {path.name for path in partial_files.folder_of("x").parent.iterdir()} == {"lost", "queued", "failed"}


def test_what_somebody_else_works_on_waits(served):
    repository(served)
    model = fetch.add("m", "org/tiny")
    fetch.start(model)
    with made_folders.lock(made_folders.path_of("m")):
        download = turn(model)
    assert (download.state, model.state) == ("running", "downloading")
    assert not asked_for(served, "config.json")
    Download.objects.update(leased_until=Now())
    assert turn(model).state == "done"
