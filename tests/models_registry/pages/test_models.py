"""The pages of models: what they show, who may change what, and that nothing that users type is more than text."""

import re
from datetime import timedelta
from decimal import Decimal

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from models_registry.models import (
    Alias,
    Download,
    DownloadState,
    Measurement,
    Model,
    ModelState,
    Operation,
    OperationKind,
    OperationState,
    Worker,
)
from tests.models_registry.api.test_registry import tuned
from tests.models_registry.catalog.test_add import model_folder
from tests.models_registry.fit.test_formula import SMOLLM2, weights
from vbs.configuration.models import AuditEntry

BAD = "<script>alert('x')</script>"
HTMX = {"HX-Request": "true"}


def user(*permissions):
    made = User.objects.create_user(f"user{User.objects.count()}")
    made.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(made)
    return client


@pytest.fixture
def looker(db):
    return user()


@pytest.fixture
def scripted(db):
    return Model.objects.create(name="scripted", kind="scripted")


def text(response):
    return response.content.decode()


def seen(response):
    return re.findall(r'name="seen" value="([^"]+)"', text(response))


def worker(**fields):
    return Worker.objects.create(**{"cluster": "gpu", "hostname": "here", "pid": 1} | fields)


# What is shown


def test_an_empty_registry_says_what_to_do(root):
    page = text(root.get("/models/"))
    assert "No models yet" in page and "manage.py model add-demo" in page
    assert "No GPU worker is running" in page


def test_a_model_that_sleeps_is_neither_loaded_nor_gone(root):
    one, other = (Model.objects.create(name=name, kind="scripted") for name in ("one", "other"))
    worker(model_name=other.name, health={"asleep": [one.name, other.name]})
    page = root.get("/models/").content.decode()
    assert page.count('class="state asleep"') == page.count('class="state loaded"') == 1


def test_the_table(root):
    base = Model.objects.create(name="zebra", kind="scripted", size_bytes=3 * 2**30, context_length=8192)
    Model.objects.create(name="ant", kind="scripted", state=ModelState.FAILED, reason="its weights are damaged")
    Model.objects.create(name="adapter", kind="scripted", base=base, lora_rank=8)
    Alias.objects.create(name="@production", model=base)
    worker(model_name="zebra", state="running", activity="Batch batch_1: 3 of 9")
    page = text(root.get("/models/"))
    assert page.index(">ant<") < page.index(">zebra<") < page.index(">adapter<"), "adapters stand under their base"
    for shown in ("@production", "3.0 GiB", "8,192", "its weights are damaged", "not measured", "adapter of zebra"):
        assert shown in page
    assert page.count('class="state loaded"') == 1 and "Batch batch_1: 3 of 9" in page


def test_what_the_worker_reads_and_why_it_waits(root):
    device = {"memory_used": 3 * 2**30, "memory_total": 4 * 2**30, "utilization": 7, "temperature": 91}
    worker(health={"devices": [device | {"power_watts": None}]}, activity="GPU 0 is at 91 °C: new work waits")
    page = text(root.get("/models/"))
    for shown in ("3.0 GiB of 4.0 GiB", "91 °C", "7 %", "GPU 0 is at 91 °C: new work waits", 'value="75"'):
        assert shown in page
    Worker.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=5))
    assert "No GPU worker is running" in text(root.get("/models/"))


@pytest.mark.parametrize(
    "state, fields, shown, buttons",
    [
        (DownloadState.QUEUED, {}, "queued", {"pause", "cancel"}),
        (DownloadState.RUNNING, {"bytes_per_second": 2**20}, "of 100 MiB · 1 MiB/s, 25 s left", {"pause", "cancel"}),
        (DownloadState.PAUSED, {}, "download paused · 75 MiB of 100 MiB", {"resume", "cancel"}),
        (DownloadState.FAILED, {"reason": "the disk is full"}, "the disk is full", {"retry", "cancel"}),
    ],
)  # fmt: skip
def test_a_download(root, state, fields, shown, buttons):
    model = Model.objects.create(name="m", hub_id="a/m", state=ModelState.DOWNLOADING)
    Download.objects.create(model=model, state=state, bytes_done=75 * 2**20, bytes_total=100 * 2**20, **fields)
    page = text(root.get("/models/"))
    assert shown in page and ('value="75"' in page) == (state != DownloadState.FAILED)
    assert set(re.findall(r'name="do" value="(\w+)"', page)) == buttons


@pytest.mark.parametrize(
    "model, loaded, buttons",
    [
        ({"hub_id": "a/m", "state": ModelState.DRAFT}, "", {"fetch"}),
        ({"kind": "scripted"}, "", {"load", "test", "benchmark"}),
        ({"kind": "scripted"}, "m", {"unload", "test", "benchmark"}),
        ({"kind": "scripted", "state": ModelState.FAILED}, "", set()),
    ],
)
def test_only_what_applies_has_a_button(root, model, loaded, buttons):
    Model.objects.create(name="m", **model)
    worker(model_name=loaded)
    assert set(re.findall(r'name="do" value="(\w+)"', text(root.get("/models/")))) == buttons


def test_a_model_is_ready_only_where_that_was_true_at_the_last_look(root, looker, scripted):
    def shown(client=root):
        page = text(client.get("/models/"))
        return re.findall(r'class="state (\w+)"', page), page

    assert shown()[0] == ["unchecked"] and "Nothing has loaded it yet" in text(root.get(f"/models/{scripted.pk}/"))
    Model.objects.filter(pk=scripted.pk).record_check()
    assert shown()[0] == ["ready"] and "Checked <time" in text(root.get(f"/models/{scripted.pk}/"))
    Model.objects.filter(pk=scripted.pk).record_check("there is no folder /rack/m. Put it back.")
    states, page = shown()
    assert states == ["failed"] and "there is no folder /rack/m" in page and 'value="load"' in page
    assert "/rack/m" not in shown(looker)[1] and "The operators" in shown(looker)[1]
    far = Model.objects.create(name="far", kind="remote", source="http://far.example/v1")
    states, page = shown()
    assert states == ["unchecked", "failed"] and 'value="check"' in page
    root.post(f"/models/{far.pk}/act", {"do": "check", "on": "models"})
    assert Operation.objects.get().kind == OperationKind.LOAD


def test_how_far_a_load_is(root, scripted):
    Measurement.objects.create(model=scripted, kind="load", load_seconds=31.25)
    worker(state="loading", activity="Loading scripted: attempt 2: loading weights (50 %)")
    page = text(root.get("/models/"))
    assert "attempt 2: loading weights (50 %)" in page and '<progress max="100" value="32"' in page
    assert "usually takes 31 s" in page
    Operation.objects.create(kind="benchmark", model=scripted, state="running", doing="7 of 9 requests", percent=86)
    for address in ("/models/", f"/models/{scripted.pk}/"):
        page = text(root.get(address))
        assert "7 of 9 requests" in page and '<progress max="100" value="86"' in page, address


def test_an_operation_under_way_is_named_and_can_be_stopped(root, scripted):
    Operation.objects.create(kind=OperationKind.LOAD, model=scripted, state=OperationState.FAILED, error="long ago")
    waiting = Operation.objects.create(kind=OperationKind.TEST, model=scripted)
    page = text(root.get("/models/"))
    assert f"#{waiting.pk}" in page and "long ago" not in page and 'value="stop"' in page
    assert 'value="load"' not in page
    root.post(f"/models/{scripted.pk}/act", {"do": "stop", "on": "models"})
    waiting.refresh_from_db()
    assert waiting.state == OperationState.CANCELLED


def test_more_models_need_no_more_queries(root, django_assert_max_num_queries):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    def add(number):
        base = Model.objects.create(name=f"m{number}", kind="scripted")
        adapter = Model.objects.create(name=f"a{number}", kind="scripted", base=base)
        Alias.objects.create(name=f"@{number}", model=base)
        Operation.objects.create(kind="load", model=adapter)

    add(0)
    root.get("/models/")
    with CaptureQueriesContext(connection) as few:
        root.get("/models/")
    for number in range(1, 10):
        add(number)
    with django_assert_max_num_queries(len(few)):
        root.get("/models/")


def test_a_model_that_has_been_measured(root, scripted):
    for place, kind in enumerate(("batch", "benchmark")):
        at = timezone.now() - timedelta(hours=place)
        Measurement.objects.create(
            model=scripted,
            kind=kind,
            at=at,
            requests=10,
            input_tokens=50,
            output_tokens=400,
            seconds=2,
            latency_p50=0.5,
        )
    Measurement.objects.create(
        model=scripted, kind="load", load_seconds=31.25, memory_bytes=2**30, predicted_bytes=2**29
    )
    page = text(root.get(f"/models/{scripted.pk}/"))
    assert "200 tokens/s" in page and "5.00 requests/s" in page
    assert page.count('<figure class="chart"') == 3 and 'data-kind="predicted"' in page
    runs, loads = (page.partition(f'aria-label="{name}"')[2].partition("</table>")[0] for name in ("Runs", "Loads"))
    assert (runs.count("<tr>"), loads.count("<tr>")) == (3, 2) and "31.25 s" not in runs and "200" not in loads
    for shown in ("31.25 s", "1.0 GiB", "512 MiB", "0.50 s", "batch: 200 tokens/s"):
        assert shown in page
    assert "not measured" not in page


def test_a_test_shows_question_and_answer_and_a_benchmark_numbers(root, scripted):
    Operation.objects.create(
        kind="test", model=scripted, state="succeeded", options={"prompt": "Where?"},
        result={"request": {}, "response": {}, "seconds": 0.25, "question": "Where?", "answer": "There."},
        log="12:00:00 Loading …\n",
    )  # fmt: skip
    Operation.objects.create(
        kind="benchmark", model=scripted, state="succeeded",
        result={"requests": 100, "output_tokens_per_second": 1234.5, "memory_bytes": 2**30, "errors": []},
    )  # fmt: skip
    page = text(root.get(f"/models/{scripted.pk}/"))
    for shown in ("Where?", "There.", "Loading …", "output tokens/s", "1,234", "1.0 GiB"):
        assert shown in page
    assert page.count("Where?") == 1 and "Where?" not in text(user().get(f"/models/{scripted.pk}/"))
    assert "[]" not in page


def test_a_tuning_shows_its_table_and_a_button_keeps_the_fastest(root, scripted):
    Model.objects.update(engine_args={"max-num-seqs": 2})
    operation = tuned(scripted)
    address, keep = f"/models/{scripted.pk}/", f"/models/{scripted.pk}/keep"
    page = text(root.get(address))
    assert "as it is" in page and "<strong>max-num-seqs 4</strong> (the fastest)" in page and "Keep the fastest" in page
    assert root.post(keep, {"operation": "nothing"}).status_code == 404
    for _ in range(2):
        assert root.post(keep, {"operation": operation.pk}).url == address
    assert Model.objects.get().engine_args == {"max-num-seqs": 4}
    page = text(root.get(address))
    assert "(the fastest, kept)" in page and "Keep the fastest</button>" not in page
    assert list(AuditEntry.objects.values_list("action", flat=True)) == ["model.edit"], (
        "the second time changes nothing"
    )
    refused = text(root.post(keep, {"operation": tuned(scripted).pk}, follow=True))
    assert "were changed since" in refused


def test_a_tuning_is_asked_for_with_its_form(root, scripted):
    form = {"tune": "", "tune-minutes": "5", "tune-requests": "50", "tune-keep": "on"}
    assert root.post(f"/models/{scripted.pk}/run", form).status_code == 302
    options = Operation.objects.get().options
    assert (options["minutes"], options["requests"], options["keep"], options["file"]) == (5, 50, True, "")
    wrong = root.post(f"/models/{scripted.pk}/run", form | {"tune-file": "file-x"})
    assert wrong.status_code == 422 and "there is no file" in text(wrong)


def test_a_score_is_shown(root):
    model = Model.objects.create(name="m", kind="scripted", task="score")
    result = {"request": {}, "response": {"data": [{"score": 0.25}]}, "seconds": 1.0, "answer": None}
    Operation.objects.create(kind="test", model=model, state="succeeded", result=result)
    assert "A score of 0.25" in text(root.get(f"/models/{model.pk}/"))


def test_an_embedding_is_shown_by_its_first_values(root):
    model = Model.objects.create(name="m", kind="scripted", task="embedding")
    response = {"data": [{"embedding": [0.5, -0.25], "dimensions": 384}]}
    result = {"request": {}, "response": response, "seconds": 1.0, "answer": None}
    Operation.objects.create(kind="test", model=model, state="succeeded", result=result)
    page = text(root.get(f"/models/{model.pk}/"))
    assert "384 dimensions: 0.5000, -0.2500" in page and 'name="test-max_tokens"' not in page


def test_whether_it_fits(root, tmp_path):
    folder = model_folder(tmp_path / "m", config__json=SMOLLM2, model__safetensors=weights(("BF16", [512, 1024])))
    model = Model.objects.create(name="m", source=str(folder))
    page = text(root.get("/models/"))
    assert re.search(rf'id="fit-{model.pk}-\w+" hx-preserve hx-get="/models/{model.pk}/fit\?brief="', page)
    brief = text(root.get(f"/models/{model.pk}/fit?brief="))
    assert "fits" in brief and "GiB" in brief and "<dl" not in brief
    for address in ("?context=1024&sequences=3", "fit?context=1024&sequences=3"):
        page = text(root.get(f"/models/{model.pk}/{address}"))
        assert "KV cache" in page and "× 1,024 tokens" in page
    assert "whole number" in text(root.get(f"/models/{model.pk}/?context=long"))
    (folder / "config.json").unlink()
    assert "has no config.json" in text(root.get(f"/models/{model.pk}/fit?brief="))


# What is new since


def test_only_what_changed_is_sent(root, scripted):
    other = Model.objects.create(name="other", kind="scripted")
    page = root.get("/models/")
    assert root.get("/models/live", {"seen": seen(page)}).status_code == 204
    Operation.objects.create(kind="load", model=scripted)
    live = root.get("/models/live", {"seen": seen(page)})
    assert f'id="model-{scripted.pk}"' in text(live) and f'id="model-{other.pk}"' not in text(live)
    assert 'hx-swap-oob="true"' in text(live) and 'data-every="1"' in text(live)
    other.delete()
    assert 'id="table"' in text(root.get("/models/live", {"seen": seen(page)}))


def test_a_page_that_is_complete_asks_for_all_it_shows(root, scripted):
    """Every part of a page says what it is, or it would be sent again with each look."""
    Operation.objects.create(kind="load", model=scripted)
    worker()
    for address in ("/models/", f"/models/{scripted.pk}/"):
        assert root.get(f"{address}live", {"seen": seen(root.get(address))}).status_code == 204


def test_a_button_answers_htmx_with_what_changed_and_others_with_the_page(root, scripted):
    given = {"do": "load", "on": "models", "seen": seen(root.get("/models/"))}
    answer = root.post(f"/models/{scripted.pk}/act", given, headers=HTMX)
    assert answer.status_code == 200 and "scripted will be loaded." in text(answer)
    assert f'id="model-{scripted.pk}"' in text(answer) and "<html" not in text(answer)
    operation = Operation.objects.get()
    assert (operation.kind, operation.asked_by) == ("load", "root")
    plain = root.post(f"/models/{scripted.pk}/act", {"do": "test", "on": "model"})
    assert plain.status_code == 302 and plain.url == f"/models/{scripted.pk}/"


def test_what_the_registry_refuses_is_said(root):
    model = Model.objects.create(name="m", hub_id="a/m", state=ModelState.DRAFT)
    answer = root.post(f"/models/{model.pk}/act", {"do": "load", "on": "models"}, headers=HTMX)
    assert answer.status_code == 200 and "is a draft" in text(answer) and "message error" in text(answer)
    assert not Operation.objects.exists()
    assert root.post(f"/models/{model.pk}/act", {"do": "explode"}).status_code == 400


# Adding


def test_a_pasted_command_fills_the_form(root):
    command = "vllm serve org/Some-Model --max-model-len 4096 --port 8000 --api-key geheim --middleware evil.py"
    answer = root.post("/models/read", {"text": command}, headers=HTMX)
    page = text(answer)
    assert 'value="org/Some-Model"' in page and "&quot;max-model-len&quot;: 4096" in page and "Add and fetch" in page
    assert "middleware" in page and "geheim" not in page
    assert not Model.objects.exists()


@pytest.mark.parametrize("given", ["complete nonsense", "", "vllm serve 'open", "a\0b", BAD])
def test_what_names_no_model_stays_in_its_field(root, given):
    answer = root.post("/models/read", {"text": given}, headers=HTMX)
    assert answer.status_code == 422 and 'class="error"' in text(answer) and BAD not in text(answer)


def test_the_form_asks_for_name_source_and_key_and_folds_the_rest(root):
    def form(pasted):
        page = text(root.post("/models/read", {"text": pasted}, headers=HTMX))
        first, _, more = page.partition('<details class="more"')
        return first, more

    first, more = form("https://8.8.8.8/v1")
    assert re.findall(r'<(?:input|select|textarea)[^>]*name="(\w+)"', first)[-3:] == ["name", "source", "key"]
    assert 'type="password"' in first and more.startswith(">") and 'name="remote_name"' in more
    first, more = form("org/model")
    assert 'name="key"' not in first + more and 'name="revision"' in more and more.startswith(">")
    first, more = form("vllm serve org/model --max-model-len 4096")
    assert more.startswith(" open>"), "what was pasted is seen"
    page = text(
        root.post("/models/add", server(source="https://8.8.8.8/v1", key="sk-typed", engine_args="{"), headers=HTMX)
    )
    assert 'class="more" open' in page and "sk-typed" not in page


def server(**given):
    return {
        "name": "far",
        "source": "http://203.0.113.5:8000/v1",
        "engine_args": "",
        "license": "",
        "notes": "",
    } | given


def test_adding_a_server(root, monkeypatch):
    monkeypatch.setattr("models_registry.catalog.sources.check_url", lambda url, private: None)
    answer = root.post("/models/add", server(notes=BAD, task="chat"))
    model = Model.objects.get()
    assert answer.status_code == 302 and answer.url == f"/models/{model.pk}/"
    assert (model.name, model.kind, model.notes) == ("far", "remote", BAD)
    page = text(root.get(f"/models/{model.pk}/"))
    assert BAD not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize(
    "given, said",
    [
        ({"name": "scripted"}, "there is a model scripted already"),
        ({"name": BAD}, "cannot be a model&#x27;s name"),
        ({"source": "/etc"}, "/etc"),
        ({"source": "http://127.0.0.1:9/v1"}, "127.0.0.1"),
        ({"engine_args": "{"}, "no JSON"),
        ({"engine_args": "[1]"}, "Give a JSON object"),
        ({"engine_args": '{"a": "\\u0000"}'}, "without NUL"),
        ({"engine_args": '{"a": NaN}'}, "no JSON"),
        ({"engine_args": "[" * 10_000}, "no JSON"),
        ({"engine_args": '{"a": "\\ud800"}'}, "no JSON"),
        ({"task": "dance"}, "dance is not one of"),
        ({"name": ""}, "required"),
        ({"name": "a\0b"}, "Null"),
    ],
)
def test_what_cannot_be_added_is_said_in_place_and_kept(root, scripted, given, said):
    answer = root.post("/models/add", server(**given, license="kept-licence"), headers=HTMX)
    assert answer.status_code == 422, text(answer)
    assert said in text(answer) and "kept-licence" in text(answer) and BAD not in text(answer)
    assert Model.objects.count() == 1


def test_who_may_only_add_chooses_nothing_that_runs_code(db, monkeypatch, settings):
    settings.VBS_TRUST_REMOTE_CODE = True
    monkeypatch.setattr("models_registry.catalog.sources.check_url", lambda url, private: None)
    adder = user("add_model")
    page = text(adder.post("/models/read", {"text": "org/model"}, headers=HTMX))
    assert "trust_remote_code" not in page and "allow_pickle" not in page
    page = text(user("add_model", "change_model").post("/models/read", {"text": "org/model"}, headers=HTMX))
    assert "trust_remote_code" not in page and "allow_pickle" in page
    trusting = user("add_model", "trust_model")
    assert "trust_remote_code" in text(trusting.post("/models/read", {"text": "org/model"}, headers=HTMX))
    for name, who in (("trust_remote_code", "only an admin"), ("allow_pickle", "only whoever may change models")):
        answer = adder.post("/models/add", server(**{name: "on"}), headers=HTMX)
        assert answer.status_code == 422 and f"({name}) cannot be set here: {who}" in text(answer)
        assert not Model.objects.exists()
    assert adder.post("/models/add", server(), headers=HTMX).status_code == 200
    assert not Model.objects.get().trust_remote_code


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"revision": "main"}, "(revision) cannot be set here: it is only for a model of the hub"),
        ({"base": "1"}, "(base) cannot be set here: it is not for a server"),
        ({"source": "/somewhere", "remote_name": "x"}, "(remote_name) cannot be set here: it is only for a server"),
        ({"source": "/somewhere", "pool": "http://x/v1"}, "(pool) cannot be set here: it is only for a server"),
    ],
)
def test_what_does_not_go_with_the_source_is_not_dropped(root, given, said):
    answer = root.post("/models/add", server(**given), headers=HTMX)
    assert answer.status_code == 422 and said in text(answer) and not Model.objects.exists()


def test_a_server_with_several_addresses(root):
    given = server(source="http://8.8.8.8/v1", pool="http://8.8.4.4/v1\r\n  http://1.1.1.1/v1/\r\n")
    assert root.post("/models/add", given, headers=HTMX).status_code == 200
    model = Model.objects.get()
    assert model.pool == ["http://8.8.4.4/v1", "http://1.1.1.1/v1"]
    form = {"task": "chat", "engine_args": "", "license": "", "notes": "", "pool": "http://8.8.4.4/v1"}
    assert root.post(f"/models/{model.pk}/edit", form | {"pool": "http://127.0.0.1/v1"}).status_code == 422
    assert root.post(f"/models/{model.pk}/edit", form).status_code == 302
    model.refresh_from_db()
    assert model.pool == ["http://8.8.4.4/v1"] and "http://8.8.4.4/v1" in text(root.get(f"/models/{model.pk}/"))


def test_an_adapter_has_the_options_of_its_base(root):
    base = Model.objects.create(name="base", kind="scripted")
    adapter = Model.objects.create(name="adapter", kind="scripted", base=base)
    answer = root.post(f"/models/{adapter.pk}/edit", {"notes": "n", "engine_args": '{"a": 1}'})
    assert answer.status_code == 422 and "(engine_args) cannot be set here: an adapter has" in text(answer)
    assert root.post(f"/models/{adapter.pk}/edit", {"notes": "n"}).status_code == 302
    adapter.refresh_from_db()
    assert adapter.notes == "n"


def test_what_the_hub_says_is_asked_before_anything_is_added(root, monkeypatch):
    from models_registry.catalog.folders import ModelError

    def gated(model):
        raise ModelError(f"{model.hub_id} is gated: ask for access")

    monkeypatch.setattr("models_registry.hub.downloads.plan", gated)
    given = {"on_hub": "True", "name": "m", "source": "org/m", "engine_args": ""}
    assert "org/m is gated: ask for access" in text(root.post("/models/plan", given, headers=HTMX))
    answer = root.post("/models/add", given, headers=HTMX)
    assert answer.status_code == 422 and "org/m is gated: ask for access" in text(answer)
    assert not Model.objects.exists(), "nothing is half registered"


# Changing


def test_editing(root, scripted):
    address = f"/models/{scripted.pk}/edit"
    assert root.post(address, {"task": "chat", "engine_args": '{"latency-ms": 5}', "notes": "n"}).status_code == 302
    scripted.refresh_from_db()
    assert (scripted.engine_args, scripted.notes) == ({"latency-ms": 5}, "n")
    answer = root.post(address, {"task": "chat", "engine_args": '{"BAD": 1}', "notes": "not lost"})
    assert answer.status_code == 422 and "cannot be an engine option" in text(answer) and "not lost" in text(answer)


def test_prices_are_set_and_shown_and_taken_back(root, scripted):
    address = f"/models/{scripted.pk}/edit"
    assert "not set" in text(root.get(f"/models/{scripted.pk}/"))
    assert root.post(address, {"task": "chat", "input_price": "0.1500", "output_price": "2"}).status_code == 302
    assert "0.15 in, 2 out USD per million tokens" in text(root.get(f"/models/{scripted.pk}/"))
    for wrong in ("-1", "NaN", "1e30", "0.00001", "free"):
        assert root.post(address, {"task": "chat", "input_price": wrong}).status_code == 422
    scripted.refresh_from_db()
    assert (scripted.input_price, scripted.output_price) == (Decimal("0.15"), 2)
    root.post(address, {"task": "chat", "input_price": "", "output_price": "0"})
    scripted.refresh_from_db()
    assert (scripted.input_price, scripted.output_price) == (None, 0)


def test_other_names(root, scripted):
    address = f"/models/{scripted.pk}/alias"
    page = text(root.post(address, {"name": "@production"}, follow=True))
    assert "@production stands for scripted." in page
    assert "cannot be an alias" in text(root.post(address, {"name": BAD}, follow=True))
    assert "cannot be an alias" in text(root.post(address, {"name": ""}, follow=True))
    root.post(address, {"remove": "@production"})
    assert not Alias.objects.exists()


def test_removing_says_first_what_needs_it(root, scripted):
    address = f"/models/{scripted.pk}/remove"
    Alias.objects.create(name="@production", model=scripted)
    assert "alias @production" in text(root.get(address)) and Model.objects.exists()
    refused = root.post(address)
    assert refused.status_code == 422 and "still needed" in text(refused) and Model.objects.exists()
    Alias.objects.all().delete()
    assert root.post(address).url == "/models/" and not Model.objects.exists()


def test_a_test_with_a_question_of_ones_own(root, scripted):
    address = f"/models/{scripted.pk}/run"
    assert root.post(address, {"test": "", "test-prompt": "Why?", "test-max_tokens": "5"}).status_code == 302
    assert Operation.objects.get().options == {"prompt": "Why?", "max_tokens": 5, "temperature": 0}
    wrong = root.post(address, {"benchmark": "", "benchmark-requests": "0", "benchmark-prompt_tokens": "5"})
    assert wrong.status_code == 422 and Operation.objects.count() == 1


# Who may


CHANGES = ("act", "run", "keep", "edit", "alias")


def test_strangers_are_sent_to_sign_in(client, scripted):
    for address in ("/models/", "/models/live", f"/models/{scripted.pk}/", f"/models/{scripted.pk}/fit"):
        answer = client.get(address)
        assert answer.status_code == 302 and answer.url.startswith("/login?next=/models/")
    for address in ("/models/add", "/models/read", f"/models/{scripted.pk}/act"):
        assert client.post(address).status_code == 302
    answer = client.get("/models/live", headers=HTMX | {"HX-Current-URL": "http://testserver/models/"})
    assert answer.headers["HX-Redirect"] == "/login?next=/models/"
    assert "next" in text(client.get("/login?next=/models/"))


def test_who_may_only_look_sees_no_buttons_and_changes_nothing(looker, scripted):
    for address in ("/models/", f"/models/{scripted.pk}/"):
        page = text(looker.get(address))
        main = page.partition("<main")[2]
        assert "<button" not in main.replace("<button>Ask", "") and 'method="post"' not in main and "scripted" in page
    for address in ("/models/add", "/models/read", "/models/plan"):
        assert looker.post(address, server()).status_code == 403
    for change in (*CHANGES, "remove"):
        assert looker.post(f"/models/{scripted.pk}/{change}", {"do": "load", "name": "@x"}).status_code == 403
    assert looker.get(f"/models/{scripted.pk}/remove").status_code == 403
    assert not Operation.objects.exists() and not Alias.objects.exists() and Model.objects.count() == 1


def test_who_may_only_look_is_not_told_where_things_are(root, looker, tmp_path):
    place = tmp_path / "m"
    far = Model.objects.create(
        name="far", kind="remote", source="http://box.lan:8000/v1", remote_name="theirs", state=ModelState.FAILED,
        pool=["http://crate.lan:8000/v1"], reason=f"{place} is gone",
    )  # fmt: skip
    here = Model.objects.create(name="here", source=str(place), reason=f"{place} is gone")
    for model in (far, here):
        Operation.objects.create(
            model=model, kind="test", state=OperationState.FAILED, asked_by="zoe", log=f"reading {place}",
            error="http://box.lan:8000/v1 cannot be reached", options={"prompt": "secret?"}, result={"answer": "42!"},
        )  # fmt: skip
    worker(hostname="rack7", model_name="here")
    places = ("box.lan", "crate.lan", "theirs", str(place), "rack7", "zoe", "secret?", "42!")
    addresses = ("/models/", f"/models/{far.pk}/", f"/models/{here.pk}/", "/system/", "/")
    whole, main = (
        "".join(text(client.get(address)).partition("<main")[2] for address in addresses) for client in (root, looker)
    )
    for shown in places:
        assert shown in whole and shown not in main, shown
    assert "The operators of this server see why" in main


def test_each_permission_is_for_its_own(db, scripted):
    changer = user("change_model")
    assert changer.post(f"/models/{scripted.pk}/act", {"do": "load"}).status_code == 302
    assert changer.post(f"/models/{scripted.pk}/remove").status_code == 403
    assert changer.post("/models/add", server()).status_code == 403
    assert user("delete_model").post(f"/models/{scripted.pk}/act", {"do": "load"}).status_code == 403


def test_methods_and_addresses_that_are_wrong(root, scripted):
    for change in CHANGES:
        assert root.get(f"/models/{scripted.pk}/{change}").status_code == 405
    for address in ("/models/add", "/models/read", "/models/plan"):
        assert root.get(address).status_code == 405
    for address in ("/models/", "/models/live", f"/models/{scripted.pk}/"):
        assert root.post(address).status_code == 405
    for address in ("", "live", "fit", "remove"):
        assert root.get(f"/models/999999/{address}").status_code == 404
        assert root.get(f"/models/99999999999999999999999/{address}").status_code == 404


def test_a_post_needs_its_token(db, scripted):
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.create_superuser("root"))
    assert strict.post(f"/models/{scripted.pk}/act", {"do": "load"}).status_code == 403
    assert not Operation.objects.exists()


def test_pages_run_no_scripts_but_ours(root, scripted):
    for address in ("/models/", f"/models/{scripted.pk}/", "/models/live", f"/models/{scripted.pk}/remove"):
        answer = root.get(address)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style|javascript:", text(answer))
    assert "default-src 'self'" in Client().get("/login").headers["Content-Security-Policy"]


def test_what_users_wrote_is_text(root):
    base = Model.objects.create(
        name=BAD, kind="scripted", state="failed", reason=BAD, notes=BAD, license=BAD, hub_id=BAD, source=BAD,
        engine_args={BAD: BAD}, revision=BAD[:20],
    )  # fmt: skip
    Model.objects.create(name=f"{BAD}2", kind="scripted", base=base)
    Alias.objects.create(name=BAD, model=base)
    Download.objects.create(model=base, state="failed", reason=BAD)
    Operation.objects.create(
        kind="test", model=base, state="failed", error=BAD, log=BAD, asked_by=BAD, options={"prompt": BAD},
        result={BAD: BAD, "answer": BAD},
    )  # fmt: skip
    worker(activity=BAD, hostname=BAD, model_name=BAD)
    for address in ("", "live", f"{base.pk}/", f"{base.pk}/remove", f"{base.pk}/fit", f"{base.pk}/fit?brief="):
        page = text(root.get(f"/models/{address}"))
        assert "alert(" not in page.replace("&lt;script&gt;alert(", ""), address


def test_what_people_do_with_models_is_kept(root, scripted):
    root.post(f"/models/{scripted.pk}/act", {"do": "load", "on": "models"})
    root.post(f"/models/{scripted.pk}/alias", {"name": "@kept"})
    root.post(f"/models/{scripted.pk}/alias", {"name": "@kept"})
    root.post(f"/models/{scripted.pk}/alias", {"remove": "@kept"})
    root.post(f"/models/{scripted.pk}/alias", {"name": "no good name"})
    kept = AuditEntry.objects.filter(action__startswith="model.").order_by("id")
    said = [(one.action, one.target, one.username) for one in kept]
    assert said[0] == ("model.load", "scripted", "root")
    assert said[-1] == ("model.unalias", "@kept", "root") and "no good name" not in str(said)
