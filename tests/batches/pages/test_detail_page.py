"""The page of one batch: what it shows, who may see and do what, and that what users wrote is text."""

import json
import re
from datetime import timedelta
from decimal import Decimal

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from batches import cost
from batches.finish import outputs
from batches.intake import submit
from batches.models import Activity, Batch, BatchEvent, BatchRequest, BatchStatus, File
from batches.pages.batch import failures, measured
from batches.pages.batch import page as detail
from batches.pages.request import prompts, table
from batches.queue import forecast, snapshot
from batches.run import claims
from models_registry.models import Alias, Model, Worker
from tests.batches.pages.shown import made, request
from tests.engines import CHAT, line
from vbs.accounts import roles
from vbs.accounts.models import Project
from vbs.configuration.models import AuditEntry
from vbs.pages.parts import rendered
from vbs.pages.viewer import Viewer
from vbs.pages.words import money

HTMX = {"HX-Request": "true"}
BAD = "<script>alert('x')</script>"
STEERING = "\x1b[2J\x1b]0;owned\x07\u202egnp.exe\u2066"


@pytest.fixture(autouse=True)
def _plain(settings):
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }
    snapshot.forget()
    cost.by_model.forget()
    measured.steps.forget()
    failures.kept.forget()


def sign_in(role, *projects):
    user = User.objects.create_user(f"{role}{User.objects.count()}")
    roles.assign(user, role)
    for one in projects:
        one.members.add(user)
    client = Client()
    client.force_login(user)
    client.user = user
    return client


@pytest.fixture
def operator(project):
    return sign_in(roles.OPERATOR, project)


@pytest.fixture
def ran(add_model, submitted, gpu, close):
    """A batch with two answers and an error."""
    add_model()
    batch = submitted([line("a", "one"), line("b", "two"), line("bad", max_tokens=-1)], metadata={"team": "blue"})
    gpu.serve()
    close(batch)
    return batch


def text(response):
    return response.content.decode()


@async_to_sync
async def body(response):
    return b"".join([piece async for piece in response])


def seen(response):
    return re.findall(r'name="seen" value="([^"]+)"', text(response))


def at(batch, rest=""):
    return f"/batches/{batch.pk}/{rest}"


# What is shown


def test_a_batch_that_ran(operator, ran):
    page = text(operator.get(at(ran)))
    for shown in (ran.pk, ">completed<", "100 %</strong> of 3", "blue", "in.jsonl", "2 completed, 1 failed.", CHAT):
        assert shown in page
    for address in ("output", "errors", "retry"):
        assert f'"/batches/{ran.pk}/{address}"' in page
    assert f'href="/batches/new?clone={ran.pk}"' in page and f"/batches/{ran.pk}/cancel" not in page
    assert page.count('<figure class="chart"') == 2 and "Writing" in page and " in all" in page
    assert f"{ran.output_tokens:,} tokens" in page


def test_one_that_waits_says_where_and_why(operator, add_model, submitted):
    add_model()
    first, second = submitted([line("a")]), submitted([line("a"), line("b")])
    page = text(operator.get(at(second)))
    assert '<span class="state queued">queued</span>' in page
    assert re.search(r"Place in the queue</dt><dd>2<", page) and "has never been measured" in page
    assert "Speed</h2>" not in page and "Tokens and cost" in page and first.pk not in page


def test_one_that_runs_has_its_pace_and_what_is_left(operator, add_model, submitted):
    model = add_model()
    batch = submitted([line(f"{n}") for n in range(10)])
    worker = Worker.objects.create(cluster="gpu", hostname="here", pid=1, model_name=model.name)
    claims.claim(batch.pk, worker.pk).start(worker.pk, "scripted", model)
    rates = {"requests_per_second": 2.5, "tokens_per_second": 700, "in_flight": 5, "in_flight_seconds": 60.0}
    Batch.objects.filter(pk=batch.pk).update(completed=4, failed=1, **rates)
    page = text(operator.get(at(batch)))
    for shown in (
        "50 %</strong> of 10",
        "2.50/s",
        "700/s",
        " left</p>",
        ">running<",
        "Output file</a> so far",
        "Errors file</a> so far",
    ):
        assert shown in page
    assert 'width="400"' in page and 'x="400" width="100"' in page


def test_one_that_runs_beside_others_has_its_share_of_the_engine(operator, add_model, submitted):
    model = add_model()
    batch, other = submitted([line("a")]), submitted([line("b")])
    worker = Worker.objects.create(cluster="gpu", hostname="here", pid=1, model_name=model.name)
    for one, count in ((batch, 30), (other, 90)):
        claims.claim(one.pk, worker.pk).start(worker.pk, "scripted", model)
        Batch.objects.filter(pk=one.pk).update(in_flight=count)
    page = text(operator.get(at(batch)))
    assert "<dt>In flight</dt><dd>30</dd>" in page and "<dt>Of the engine</dt><dd>25 %, beside 1 other</dd>" in page
    Batch.objects.get(pk=other.pk).release(worker.pk)
    page = text(operator.get(at(batch)))
    assert "<dt>In flight</dt><dd>30</dd>" in page and "Of the engine" not in page


def test_only_what_moves_is_sent(operator, add_model, submitted):
    add_model()
    batch = submitted([line(f"{n}") for n in range(10)])
    Batch.objects.filter(pk=batch.pk).update(status=BatchStatus.IN_PROGRESS, in_progress_at=timezone.now(), completed=1)
    page = operator.get(at(batch))
    assert operator.get(at(batch, "live"), {"seen": seen(page)}).status_code == 204
    Batch.objects.filter(pk=batch.pk).update(completed=5, output_tokens=100)
    sent = re.findall(r'<template><\w+ id="(\w+)"', text(operator.get(at(batch, "live"), {"seen": seen(page)})))
    moves = {"bar", "spent", "going", "left", "title", "tabs"}
    assert {"bar", "spent", "tabs"} <= set(sent) <= moves, "no button moves under anybody's finger"


def test_retries_lead_to_each_other(operator, ran):
    answer = operator.post(at(ran, "retry"))
    again = Batch.objects.get(retry_of=ran)
    assert answer.status_code == 302 and answer.url == at(again) and again.created_by == operator.user.username
    page = text(operator.get(at(again)))
    assert at(ran) in page and "that failed or were not run" in page and operator.user.username in page
    assert at(again) in text(operator.get(at(ran)))
    again.hide()
    assert at(again) not in text(operator.get(at(ran)))
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.target, entry.project, entry.username) == (
        "batch.retry", ran.pk, ran.project, operator.user.username,
    )  # fmt: skip


# The answers


def shown_lines(page):
    return [int(one) for one in re.findall(r'<tr id="line-(\d+)">', page)]


@pytest.fixture
def many(project):
    """60 requests: 1 to 30 answered, 31 to 50 failed by two causes, the rest pending."""
    batch = made(project, [request(f"id-{n}") for n in range(1, 61)], name="reviews")
    batch.requests.filter(line__lte=30).update(
        state=1, status_code=200, response='{"choices":[{"message":{"content":"Yes."}}]}', finished_at=timezone.now()
    )
    for number in range(31, 51):
        code, said = ("context_length_exceeded", f"{4096 + number} tokens are too many; at most 4096 are allowed.")
        if number > 47:
            code, said = "engine_crashed", "It died."
        batch.requests.filter(line=number).update(state=2, status_code=400, error_code=code, error_message=said)
    Batch.objects.filter(pk=batch.pk).update(completed=30, failed=20)
    batch.refresh_from_db()
    return batch


def test_the_answers_are_on_the_page(operator, many):
    page = text(operator.get(at(many)))
    assert shown_lines(page) == list(range(1, 21)) and "question of id-7" in page and "Yes." in page
    tabs = re.findall(r'>(\w+) <span class="quiet">(\d+)</span></a>', page)
    assert tabs == [("All", "60"), ("Pending", "10"), ("Completed", "30"), ("Failed", "20")]
    assert f'data-url="/batches/{many.pk}/live"' in page


def test_what_is_chosen_of_them_is_what_is_followed(operator, many):
    page = operator.get(at(many), {"state": "failed", "after": "40", "other": "x"})
    assert shown_lines(text(page)) == list(range(41, 51)) and 'aria-current="page">Failed' in text(page)
    assert f'data-url="/batches/{many.pk}/live?state=failed&amp;after=40"' in text(page)
    live = {"state": "failed", "after": "40", "seen": seen(page)}
    assert operator.get(at(many, "live"), live).status_code == 204
    many.requests.filter(line=45).update(error_message="It died twice.")
    assert 'id="line-45"' in text(operator.get(at(many, "live"), live))
    many.requests.filter(line=55).update(state=2, error_code="x", error_message="y")
    answer = text(operator.get(at(many, "live"), live))
    assert shown_lines(answer) == [*range(41, 51), 55], "another row: the table is sent whole"
    assert shown_lines(text(operator.get(at(many), {"q": "id-5"}))) == [5, *range(50, 60)]


def test_failures_are_told_by_their_causes(operator, many):
    page = text(operator.get(at(many)))
    causes = re.findall(r"<strong class=\"number\">(\d+) ×</strong> <span><code>(\w+)</code>", page)
    assert causes == [("17", "context_length_exceeded"), ("3", "engine_crashed")] and "20 failed</h2>" in page
    assert page.count("and similar") == 1 and f'href="/batches/{many.pk}/requests/31">line 31<' in page


def test_of_many_failures_the_first_are_looked_at(operator, many, monkeypatch):
    monkeypatch.setattr(failures, "LOOKED_AT", 5)
    assert "Counted in the first 5 that failed." in text(operator.get(at(many)))


def test_without_failures_nothing_is_said_of_them(operator, project):
    batch = made(project, [request("a")])
    page = text(operator.get(at(batch)))
    assert 'id="failures"' in page and "failures-title" not in page


def test_prompts_of_a_file_that_is_gone_are_not_shown(operator, many):
    many.input_file.delete_softly()
    page = text(operator.get(at(many)))
    assert shown_lines(page) == list(range(1, 21)) and "question of" not in page


def test_prompts_of_long_and_odd_lines(project):
    long = request("long", messages=[{"role": "user", "content": "begin " + "x" * 50_000}])
    system = request("a", messages=[{"role": "system", "content": "rules"}, {"role": "user", "content": "a\nb"}])
    batch = made(project, [long, system, b"no json", request("b", messages="odd"), b'{"body": 5}', b"{}"])
    prompts.forget()
    rows = table.of(batch, {}, "batch")["rows"]
    said = [row["prompt"] for row in rows]
    assert said[0].startswith("begin xxx") and said[1:] == ["a b", "no json", '"odd"', "5", "{}"]


# Its name


def test_the_name_leads_and_the_title_has_the_progress(operator, many):
    page = text(operator.get(at(many)))
    assert "<bdi>reviews</bdi>" in page and f'<code id="batch-id">{many.pk}</code>' in page
    assert "<title>queued · reviews · vbs</title>" in page and 'data-title="queued · reviews · vbs"' in page
    Batch.objects.update(status="completed", completed_at=timezone.now(), name="")
    assert f"<title>completed · {many.pk} · vbs</title>" in text(operator.get(at(many)))


def test_it_can_be_renamed(operator, many):
    asked = text(operator.get(at(many, "name"), headers=HTMX))
    assert 'value="reviews"' in asked and "<html" not in asked
    assert "<bdi>second</bdi>" in text(operator.post(at(many, "name"), {"name": " second "}, follow=True))
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.target, entry.detail) == ("batch.name", many.pk, "reviews → second")
    for wrong in ("", " ", "x" * 201, "a\0b"):
        assert operator.post(at(many, "name"), {"name": wrong}).status_code == 422
    assert Batch.objects.get().name == "second"
    viewer = sign_in(roles.VIEWER, many.project)
    assert viewer.post(at(many, "name"), {"name": "third"}).status_code == 403
    assert at(many, "name") not in text(viewer.get(at(many)))


@pytest.mark.parametrize(
    "failed, not_run, words",
    [(0, 3, "Run the 3 rows not run"), (0, 1, "Run the 1 row not run"), (2, 0, "Run the 2 failed rows"),
     (1, 0, "Run the 1 failed row"), (2, 1, "Run the 2 failed and the 1 not run rows")],
)  # fmt: skip
def test_what_was_not_run_can_be_run(operator, many, failed, not_run, words):
    for status in ("cancelled", "expired"):
        Batch.objects.update(
            status=status, outcome=status, completed=60 - failed - not_run, failed=failed + not_run, not_run=not_run,
            **{f"{status}_at": timezone.now()},
        )  # fmt: skip
        assert f">{words}</button>" in text(operator.get(at(many)))


# Validation


@pytest.fixture
def refused(submitted, add_model):
    def make(content):
        add_model()
        batch = submitted(content)
        assert batch.status == BatchStatus.FAILED
        return batch

    return make


def test_errors_stand_beside_their_lines(operator, refused):
    good = json.dumps(line("a")).encode()
    batch = refused(b"\xef\xbb\xbf" + good + b"\n\n{oh no\r\n" + good + b"\n" + b'{"custom_id": "c"}')
    page = text(operator.get(at(batch)))
    for shown in ("invalid_json_line", "{oh no</pre>", "duplicate_custom_id", "missing_required_parameter", "method"):
        assert shown in page
    assert re.findall(r'<th scope="row" class="number" data-label="Line">(\d+)</th>', page) == ["3", "4", "5"]
    answer = operator.get(at(batch, "errors.json"))
    assert json.loads(answer.content) == batch.errors and "attachment" in answer.headers["Content-Disposition"]


def test_many_errors_are_cut_and_counted(operator, refused):
    page = text(operator.get(at(refused(b"{}\n" + b"no\n" * 1500))))
    assert page.count("invalid_json_line") == 99 and "And 901 more." in page and "All 1,001 as JSON" in page
    assert len(page) < 200_000


def test_lines_of_a_file_that_is_gone(operator, refused):
    batch = refused(b"{}\n")
    batch.input_file.delete_softly()
    assert "no longer kept" in text(operator.get(at(batch)))


def test_a_line_of_a_megabyte_is_clipped(operator, refused):
    batch = refused(b"{}\n" + b"x" * 2**20 + b"\n" + b"third\n")
    page = text(operator.get(at(batch)))
    assert "x" * 300 + "…" in page and "x" * 301 not in page and "third</pre>" in page


# What it costs


def two_models(project, purged=False):
    """A batch of two models: 2 and 1 requests."""
    batch = submit.create(project, "file-none", CHAT, "24h")
    Batch.objects.filter(pk=batch.pk).update(
        model_names=["cheap", "@dear"], total=3, completed=3, input_tokens=3_000_000, output_tokens=1_500_000,
        status=BatchStatus.COMPLETED, purged_at=timezone.now() if purged else None,
    )  # fmt: skip
    for number, index in enumerate((0, 0, 1)):
        BatchRequest.objects.create(
            batch=batch, line=number, offset=0, length=1, custom_id=f"{number}", model_index=index, state=1,
            prefix="00000000-0000-0000-0000-000000000000", input_tokens=1_000_000, output_tokens=500_000,
        )  # fmt: skip
    batch.refresh_from_db()
    return batch


def test_cost_by_model(operator, project):
    Model.objects.create(name="cheap", kind="scripted", input_price="0.15", output_price="0.6")
    dear = Model.objects.create(name="dear", kind="scripted", input_price="2")
    Alias.objects.create(name="@dear", model=dear)
    batch = two_models(project)
    cheap, other = cost.shares(batch)
    assert (cheap.requests, cheap.input_tokens, cheap.output_tokens) == (2, 2_000_000, 1_000_000)
    assert cheap.cost == Decimal("0.9") and other.cost is None, "output tokens have no price"
    assert cost.total([cheap, other]) is None
    Model.objects.filter(pk=dear.pk).update(output_price=8)
    shares = cost.shares(batch)
    assert [one.cost for one in shares] == [Decimal("0.9"), 6] and cost.total(shares) == Decimal("6.9")
    page = text(operator.get(at(batch)))
    assert "<strong>6.90 USD</strong>" in page and "0.15 / 0.6" in page and "0.900 USD" in page


def test_cost_by_model_is_not_known_once_the_requests_are_gone(operator, project):
    Model.objects.create(name="cheap", kind="scripted", input_price="1", output_price="1")
    batch = two_models(project, purged=True)
    assert [one.cost for one in cost.shares(batch)] == [None, None]
    page = text(operator.get(at(batch)))
    assert "the tokens of each model are not known" in page and "@dear</bdi> is not in the registry" in page


def test_without_a_price_it_says_where_to_set_one(operator, ran, settings):
    model = Model.objects.get()
    page = text(operator.get(at(ran)))
    assert "has no price" in page and f'href="/models/{model.pk}/"' in page and "<dt>Cost" not in page
    Model.objects.update(input_price=1_000_000, output_price=0)
    settings.VBS_CURRENCY = "EUR"
    page = text(operator.get(at(ran)))
    assert f"<strong>{ran.input_tokens}.00 EUR</strong>" in page and "has no price" not in page


@pytest.mark.parametrize(
    "amount, said",
    [("0", "0.00"), ("1234567.891", "1,234,567.89"), ("0.5", "0.500"), ("0.000123456", "0.000123"), ("1e-12", "0.00")],
)
def test_money(amount, said):
    assert money(Decimal(amount), "USD").removesuffix(" USD").rstrip("0") == said.rstrip("0")


# What can be done


def test_cancelling_asks_first(operator, add_model, submitted):
    add_model()
    batch = submitted([line("a"), line("b")])
    asked = text(operator.get(at(batch, "cancel"), headers=HTMX))
    assert "2 of its 2 requests will not be run." in asked and "<html" not in asked
    batch.refresh_from_db()
    assert batch.status == BatchStatus.VALIDATING
    page = text(operator.post(at(batch, "cancel"), follow=True))
    assert "is being cancelled" in page
    outputs.finalize(batch.pk)
    batch.refresh_from_db()
    assert batch.status == BatchStatus.CANCELLED
    assert AuditEntry.objects.get().action == "batch.cancel" and "2 requests" in AuditEntry.objects.get().detail
    assert "Cancelled" in text(operator.get(at(batch)))


def test_what_is_refused_is_said(operator, ran):
    assert "has ended already" in text(operator.get(at(ran, "cancel"), follow=True))
    assert operator.get(at(ran, "cancel"), headers=HTMX).headers["HX-Redirect"] == at(ran)
    for method in (operator.get, operator.post):  # what was said above, too
        method(at(ran))
    assert "Cannot cancel a batch" in text(operator.post(at(ran, "cancel"), follow=True))
    File.objects.update(purged_at=timezone.now())
    assert "no longer kept" in text(operator.post(at(ran, "retry"), follow=True))
    answer = operator.post(at(ran, "retry"), headers=HTMX)
    assert answer.status_code == 200 and "Cannot retry" in text(answer) and "<html" not in text(answer)
    assert not AuditEntry.objects.exists() and Batch.objects.count() == 1


def test_a_retry_by_htmx_leads_to_the_new_one(operator, ran):
    answer = operator.post(at(ran, "retry"), headers=HTMX)
    assert answer.headers["HX-Redirect"] == at(Batch.objects.get(retry_of=ran))


# Downloads


def test_downloads(operator, ran):
    answer = operator.get(at(ran, "output"))
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{ran.pk}_output.jsonl"'
    assert {json.loads(one)["custom_id"] for one in body(answer).splitlines()} == {"a", "b"}
    assert [json.loads(one)["custom_id"] for one in body(operator.get(at(ran, "errors"))).splitlines()] == ["bad"]
    assert f"Completed: {ran.completed}" in text(operator.get(at(ran, "log")))


def test_downloads_while_it_runs_have_what_there_is(operator, ran):
    Batch.objects.filter(pk=ran.pk).update(status=BatchStatus.IN_PROGRESS, output_file=None, error_file=None)
    assert len(body(operator.get(at(ran, "output"))).splitlines()) == 2
    assert len(body(operator.get(at(ran, "errors"))).splitlines()) == 1


@pytest.mark.parametrize(("name", "begins"), [("csv", "\ufeffcustom_id,prompt,answer".encode()), ("xlsx", b"PK")])
def test_results_as_a_table(operator, ran, name, begins):
    shown = text(operator.get(at(ran)))
    address = f"/batches/{ran.pk}/results?format={name}&amp;join=input"
    assert f'href="{address}"' in shown
    answer = operator.get(address.replace("&amp;", "&"))
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{ran.title}_results.{name}"'
    assert b"".join(answer.streaming_content).startswith(begins)
    refused = operator.get(f"/batches/{ran.pk}/results?format=doc", follow=True)
    assert "Supported values are: jsonl, csv, xlsx, parquet." in text(refused)


def test_tables_without_the_input_file_and_without_requests(operator, ran):
    ran.input_file.delete_softly()
    shown = text(operator.get(at(ran)))
    assert "results?format=csv" in shown and "join=input" not in shown
    assert "The input file was deleted" in shown
    Batch.objects.filter(pk=ran.pk).update(purged_at=timezone.now())
    assert "results?format=csv" not in text(operator.get(at(ran)))


def test_what_is_no_longer_kept_is_said(operator, ran):
    Batch.objects.filter(pk=ran.pk).update(purged_at=timezone.now())
    ran.output_file.delete_softly()
    assert "its 2 lines are no longer kept" in text(operator.get(at(ran)))
    assert "no longer kept: the batch ended long ago" in text(operator.get(at(ran, "output"), follow=True))


# Who may

LOOKS = ("", "live", "results", "output", "errors", "errors.json", "log")


def test_strangers_sign_in_and_other_projects_members_find_nothing(client, ran):
    other = sign_in(roles.OPERATOR, Project.objects.create(name="other"))
    for rest in (*LOOKS, "cancel"):
        answer = client.get(at(ran, rest))
        assert answer.status_code == 302 and answer.url.startswith("/login?next=/batches/")
        assert other.get(at(ran, rest)).status_code == 404, rest
    for rest in ("cancel", "retry"):
        assert client.post(at(ran, rest)).status_code == 302 and other.post(at(ran, rest)).status_code == 404
    ran.refresh_from_db()
    assert ran.status == BatchStatus.COMPLETED and Batch.objects.count() == 1


def test_who_may_only_look_sees_no_buttons_and_changes_nothing(project, ran, submitted):
    waiting = submitted([line("a")])
    viewer = sign_in(roles.VIEWER, project)
    for batch in (ran, waiting):
        page = text(viewer.get(at(batch))).partition("<main")[2]
        assert 'method="post"' not in page and "/cancel" not in page and "clone=" not in page
        assert viewer.get(at(batch, "cancel")).status_code == 403
        for rest in ("cancel", "retry"):
            assert viewer.post(at(batch, rest)).status_code == 403
    assert viewer.get(at(ran, "output")).status_code == 200
    assert Batch.objects.count() == 2 and not AuditEntry.objects.exists()


def test_another_project_being_chosen_hides_nothing_that_is_asked_for_by_its_id(project, ran):
    other = Project.objects.create(name="other")
    member = sign_in(roles.OPERATOR, project, other)
    member.post("/project", {"project": other.pk})
    assert member.get(at(ran)).status_code == 200


def test_deleted_odd_and_unknown_ids(operator, ran):
    for rest in LOOKS:
        for pk in ("batch_none", "%00", "..%2f", "x" * 500, "%F0%9F%92%A9"):
            assert operator.get(f"/batches/{pk}/{rest}").status_code == 404
    ran.hide()
    for rest in LOOKS:
        assert operator.get(at(ran, rest)).status_code == 404
    assert operator.post(at(ran, "retry")).status_code == 404


def test_methods_and_tokens(operator, ran):
    assert operator.get(at(ran, "retry")).status_code == 405
    for rest in LOOKS:
        assert operator.post(at(ran, rest)).status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator.user)
    assert strict.post(at(ran, "retry")).status_code == 403


# What users wrote


def test_what_users_wrote_is_text(operator, refused):
    batch = refused(b"{}\n" + (BAD + STEERING).encode() + b"\n" + json.dumps(line(BAD, model=BAD + STEERING)).encode())
    Batch.objects.filter(pk=batch.pk).update(
        metadata={BAD: STEERING + BAD, "long": "y" * 2**20, "list": ["odd"]}, input_file_id_given=BAD, created_by=BAD,
        model_names=[BAD], default_model=BAD, resolved=[{"asked": BAD, "model": BAD, "revision": BAD}],
    )  # fmt: skip
    File.objects.update(filename=BAD + STEERING)
    Project.objects.update(name=BAD)
    for level in ("info", "error"):
        BatchEvent.objects.create(batch=batch, level=level, message=BAD + STEERING + "z" * 2**20)
    for rest in ("", "live"):
        page = text(operator.get(at(batch, rest)))
        assert "alert(" not in page.replace("&lt;script&gt;alert(", "")
        assert not any(one in page for one in "\x1b\x07\u202e\u2066") and "⟨ESC⟩" in page
        assert len(page) < 100_000 and "y" * 601 not in page and "z" * 501 not in page
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style|javascript:", page)
    log = text(operator.get(at(batch, "log")))
    assert "\x1b" not in log and "z" * 2**20 in log
    answer = operator.get(at(batch))
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert answer.headers["Cache-Control"] == "no-store"


# What it costs us


def fifty_thousand(project, model_count=1):
    batch = submit.create(project, "file-none", CHAT, "24h")
    names = [f"m{n}" for n in range(model_count)]
    with connection.cursor() as cursor:
        cursor.execute(
            'INSERT INTO batches_batchrequest (batch_id, line, "offset", length, custom_id, model_index, prefix, '
            "state, crashes, input_tokens, output_tokens, response) SELECT %s, n, n, 1, n::text, n %% %s, "
            "gen_random_uuid(), 1, 0, 10, 20, repeat('x', 600) FROM generate_series(1, 50000) AS n",
            [batch.pk, model_count],
        )
    now = timezone.now()
    Batch.objects.filter(pk=batch.pk).update(
        status=BatchStatus.IN_PROGRESS, model_names=names, total=60_000, completed=50_000, validated_at=now,
        in_progress_at=now - timedelta(hours=6), input_tokens=500_000, output_tokens=1_000_000,
    )  # fmt: skip
    Activity.objects.bulk_create(
        Activity(batch=batch, at=now - timedelta(seconds=2 * n), completed=5, output_tokens=100) for n in range(10_000)
    )
    BatchEvent.objects.bulk_create(BatchEvent(batch=batch, message=f"event {n}") for n in range(1000))
    return batch


@pytest.mark.parametrize("models", [1, 2])
def test_a_large_batch_has_its_page_in_few_queries(operator, project, models):
    batch = fifty_thousand(project, models)
    operator.get(at(batch))  # the templates are read
    forecast.plan()
    viewer = Viewer(frozenset(), frozenset({project.pk}))
    measured.steps.forget()
    failures.kept.forget()
    cost.by_model.forget()
    with CaptureQueriesContext(connection) as found:
        rendered(detail.build(viewer, {}, batch.pk).values(), viewer)
    assert len(found) <= 10, [one["sql"][:100] for one in found]
    assert operator.get(at(batch)).status_code == 200
