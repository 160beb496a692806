"""A new batch in the browser: its file is checked and mended in the page, and one batch is made of it."""

import io
import json
import re
import threading
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.utils import timezone

from batches.files import blobs, purge, store
from batches.intake import ingest
from batches.models import Batch, BatchStatus, File
from models_registry.models import Alias, Model
from tests.engines import CHAT, line, lines_of
from vbs.accounts.models import Project
from vbs.configuration.models import AuditEntry

NEW, CHECK = "/batches/new", "/batches/new/check"
PREVIEW = f"{NEW}/preview"
REPORTS = [f"{NEW}/report?format={kind}" for kind in ("csv", "json")]
HTMX = {"HX-Request": "true"}


@pytest.fixture
def project(db):
    return Project.objects.create(name="project")


@pytest.fixture(autouse=True)
def model(project):
    return Model.objects.create(name="scripted", kind="scripted")


def person(name, *projects, rights=("add_batch",)):
    made = User.objects.create_user(name)
    made.user_permissions.set(Permission.objects.filter(codename__in=rights))
    for one in projects:
        one.members.add(made)
    client = Client()
    client.force_login(made)
    return client


@pytest.fixture
def ann(project):
    return person("ann", project)


def jsonl(*lines):
    return b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)


def text(response):
    return response.content.decode()


def fields(response):
    """What a browser would send back."""
    form = response.context["form"]
    names = ("way", "kept", "ready")
    page = text(response)
    found = {name: re.search(rf'name="{name}" value="([^"]*)"', page)[1] for name in names}
    for bound in form:
        value = bound.value()
        found[bound.html_name] = "" if value is None else value
    wrong = response.context.get("wrong", [])
    return found | {f"line-{one.line}": text for one, text in wrong if text is not None}


def check(client, content=None, name="in.jsonl", status=200, **given):
    start = fields(client.get(NEW))
    if content is not None:
        given["file"] = SimpleUploadedFile(name, content)
    response = client.post(CHECK, start | given)
    assert response.status_code == status, text(response)[:2000]
    return response


def again(client, response, status=200, **given):
    response = client.post(CHECK, fields(response) | given)
    assert response.status_code == status, text(response)[:2000]
    return response


def create(client, response, **given):
    return client.post(NEW, fields(response) | given)


def made(response):
    assert response.status_code == 302, text(response)[:3000]
    batch = Batch.objects.get(pk=response.url.split("/")[2])
    ingest.validate(batch.pk)
    batch.refresh_from_db()
    return batch


# The whole story


def test_a_good_file_becomes_a_batch(ann, project):
    found = check(ann, jsonl(line("a"), line("b")), model="scripted")
    assert "Nothing is wrong: 2 requests can run" in text(found)
    assert not File.objects.visible(project).exists() and not Batch.objects.exists()
    batch = made(create(ann, found, **{"priority": 7, "key-0": "team", "value-0": "search"}))
    assert batch.status == BatchStatus.VALIDATING and batch.validated_at and batch.total == 2
    assert (batch.priority, batch.metadata, batch.created_by) == (7, {"team": "search"}, "ann")
    assert (batch.endpoint, batch.completion_window, batch.project) == (CHAT, "24h", project)
    assert batch.input_file.purpose == "batch" and batch.input_file.filename == "in.jsonl"
    assert File.objects.visible(project).get() == batch.input_file
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.target, entry.username, entry.project) == ("batch.create", batch.pk, "ann", project)


def test_a_form_that_is_sent_twice_makes_one_batch(ann):
    for name, content in (("in.jsonl", jsonl(line("a"))), ("in.csv", b"prompt\nhello\n")):
        given = fields(check(ann, content, name, model="scripted"))
        before = Batch.objects.count()
        first, second = ann.post(NEW, given), ann.post(NEW, given)
        assert first.status_code == 302 and first.url == second.url
        assert Batch.objects.count() == before + 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("again", range(3))
def test_two_at_once_make_one_batch(ann, again):
    given = fields(check(ann, jsonl(line("a"))))
    answers = []

    def send():
        client = Client()
        client.cookies = ann.cookies
        answers.append(client.post(NEW, given))
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert {one.status_code for one in answers} == {302} and len({one.url for one in answers}) == 1
    assert Batch.objects.count() == AuditEntry.objects.count() == 1


def test_a_table_becomes_a_batch(ann):
    found = check(ann, b'prompt;system\n"why; ""oh""\nwhy";be kind\n\nwho;\n', "questions.csv", model="scripted")
    assert found.context["table"].said == "CSV: UTF-8, separated by semicolons, headings in row 1"
    batch = made(create(ann, found))
    assert batch.validated_at and batch.input_file.filename == "questions.jsonl" and batch.total == 2
    first, second = [json.loads(one) for one in _content(batch.input_file).splitlines() if one]
    assert first["body"]["messages"][1]["content"] == 'why; "oh"\nwhy' and second["custom_id"] == "row-4"
    assert first["body"]["model"] == "scripted"


def _content(file):
    with blobs.open_blob(file.blob) as content:
        return content.read()


def test_bad_lines_are_listed_and_mended(ann):
    bad = b'{"custom_id": "b", "method": "GET"'
    found = check(ann, jsonl(line("a"), bad, line("a"), line("d", model="nobody")))
    result = found.context["result"]
    assert [(one.line, one.code) for one in result.problems] == [
        (2, "invalid_json_line"), (3, "duplicate_custom_id"), (4, "model_not_found")
    ]  # fmt: skip
    assert "3 of 4 requests are wrong" in text(found) and "Write one JSON object on the line" in text(found)
    assert 'name="ready" value=""' in text(found)
    typed = {"line-2": json.dumps(line("b", "one\u2028line"), indent=1, ensure_ascii=False), "line-3": ""}
    found = again(ann, found, do="mend", **typed)
    assert [one.line for one in found.context["result"].problems] == [4 - 1], "line 3 was emptied, and is gone"
    found = again(ann, found, do="leave-out")
    assert "Nothing is wrong: 2 requests" in text(found)
    batch = made(create(ann, found))
    assert [one["custom_id"] for one in lines_of(batch.input_file)] == ["a", "b"]
    assert len(_content(batch.input_file).decode().splitlines()) == 2, "what was typed is one line for every reader"


def test_rows_are_mended(ann):
    found = create(ann, check(ann, b"prompt,max_tokens\nfirst,many\nsecond,5\nthird,none\n", "t.csv", model="scripted"))
    assert found.status_code == 422 and not Batch.objects.exists()
    assert [one.line for one in found.context["result"].problems] == [2, 4]
    refused = again(ann, found, 422, do="mend", **{"line-2": '"open,5'})
    assert "Row 2" in text(refused) and "&quot;open,5" in text(refused), "what was typed is kept"
    found = again(ann, refused, do="mend", **{"line-2": '"fir\r\nst",5'})
    assert [one.line for one in found.context["result"].problems] == [4]
    found = again(ann, found, do="leave-out")
    batch = made(create(ann, found))
    prompts = [json.loads(one)["body"]["messages"][0]["content"] for one in _content(batch.input_file).split()]
    assert prompts == ["fir\nst", "second"]


def test_a_thousand_bad_lines(ann):
    found = check(ann, jsonl(line("good"), *[b"{" for _ in range(1200)]))
    page = text(found)
    assert page.count("invalid_json_line") == 100 and "And 1,100 more" in page and page.count("<textarea") == 20
    as_csv, as_json = (b"".join(ann.post(one, fields(found)).streaming_content) for one in REPORTS)
    assert as_csv.count(b"invalid_json_line") == 1200
    rows = json.loads(as_json)
    assert len(rows) == 1200 and rows[-1]["line"] == 1201 and rows[0]["remedy"]
    assert person("eve", Project.objects.create(name="hers")).post(REPORTS[0], fields(found)).status_code == 404
    found = again(ann, found, do="leave-out")
    assert "1 request can run" in text(found)


def test_nothing_is_made_of_what_was_not_checked(ann):
    Model.objects.create(name="embedder", kind="scripted", task="embedding")
    embed = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"input": "hello"}}
    found = check(ann, jsonl(embed), model="scripted")
    changed = create(ann, found, model="embedder", endpoint="/v1/embeddings")
    assert changed.status_code == 422 and "Review the result" in text(changed) and not Batch.objects.exists()
    batch = made(create(ann, changed))
    assert batch.endpoint == "/v1/embeddings"
    bad = check(ann, jsonl(b"{"))
    assert create(ann, bad).status_code == 422 and Batch.objects.count() == 1


@pytest.mark.parametrize(
    "task, name, content, endpoint",
    [
        ("chat", "t.csv", b"prompt\nhi\n", CHAT),
        ("completion", "t.csv", b"prompt\nhi\n", "/v1/completions"),
        ("embedding", "t.csv", b"prompt\nhi\n", "/v1/embeddings"),
        ("embedding", "t.jsonl", jsonl(line("a") | {"url": "/v1/embeddings"}), "/v1/embeddings"),
        ("chat", "t.jsonl", jsonl(line("a") | {"url": "/v1/responses"}), "/v1/responses"),
        ("score", "t.csv", b"queries,documents\nhi,ho\n", "/v1/score"),
        ("embedding", "t.csv", b"query,documents\nhi,ho\n", "/v1/rerank"),
    ],
)
def test_the_endpoint_is_guessed(ann, task, name, content, endpoint):
    Model.objects.create(name="other", kind="scripted", task=task)
    found = check(ann, content, name, model="other")
    if name.endswith(".jsonl"):
        assert found.context["form"]["endpoint"].value() == endpoint == found.context["result"].endpoint
    else:
        assert made(create(ann, found)).endpoint == endpoint


@pytest.mark.parametrize("task", ["chat", "completion", "embedding"])
def test_samples(ann, model, task):
    Model.objects.update(task=task)
    found = check(ann, do="sample", way="file")
    assert "Nothing is wrong: 3 requests" in text(found)
    for kind in ("jsonl", "csv"):
        content = b"".join(ann.get(f"/batches/new/sample.{kind}").streaming_content)
        assert b"scripted" in content and made(create(ann, check(ann, content, f"sample.{kind}"))).total == 3
    assert made(create(ann, found)).total == 3


# Again


def test_run_it_again(ann, submitted, project):
    before = submitted([line("a")], priority=9, metadata={"team": "x"}, default_model="scripted")
    page = ann.get(f"{NEW}?clone={before.pk}")
    assert "Nothing is wrong: 1 request" in text(page)
    given = fields(page)
    first = ann.post(NEW, given)
    batch = made(first)
    same = ("endpoint", "priority", "metadata", "default_model", "input_file", "project")
    assert batch.pk != before.pk and all(getattr(batch, one) == getattr(before, one) for one in same)
    assert ann.post(NEW, given).url == first.url


def test_what_one_has_sent_is_mended_by_another(project, submitted):
    before = submitted([line("a"), line("b", model="nobody")])
    friend = person("friend", project)
    found = again(friend, friend.get(f"{NEW}?clone={before.pk}"), do="leave-out")
    mended = made(create(friend, found)).input_file
    assert [one["custom_id"] for one in lines_of(mended)] == ["a"] and mended.created_by.username == "friend"
    assert len(lines_of(before.input_file)) == 2


def test_what_cannot_be_run_again(ann, submitted, project):
    before = submitted([line("a")])
    given = fields(ann.get(f"{NEW}?clone={before.pk}"))
    before.input_file.delete_softly()
    assert "is not kept any more" in text(ann.get(f"{NEW}?clone={before.pk}"))
    answer = ann.post(NEW, given)
    assert answer.status_code == 422 and "Choose it again" in text(answer)
    assert not File.objects.visible(project).exists(), "what its owner has deleted stays so"
    eve = person("eve", Project.objects.create(name="hers"))
    for wrong in (before.pk, "nothing", "\0", "<b>"):
        assert eve.get(NEW, {"clone": wrong}).status_code == 404


def test_a_file_of_another_project_is_not_run_there(project, submitted):
    other = Project.objects.create(name="other")
    ann = person("ann", project, other)
    page = ann.get(f"{NEW}?clone={submitted([line('a')]).pk}")
    assert page.context["form"]["project"].value() == project.pk
    answer = create(ann, page, project=other.pk)
    assert answer.status_code == 422 and "belongs to the project project" in text(answer)
    batch = made(create(ann, check(ann, jsonl(line("a")), project=project.pk), project=other.pk))
    assert batch.project == batch.input_file.project == other and batch.validated_at


def test_a_model_is_chosen_by_the_address(ann):
    Model.objects.create(name="other", kind="scripted")
    assert '<option value="scripted" selected>' in text(ann.get(f"{NEW}?way=prompts&model=scripted"))
    assert 'name="model" value="scripted"' in text(ann.get(f"{NEW}?model=scripted")), "until a file is there"
    page = text(ann.get(NEW, {"model": "<script>x"}))
    assert "&lt;script&gt;x” is ready now" in page and "<script>x" not in page
    Alias.objects.create(name="@best", model=Model.objects.get(name="scripted"))
    assert '<option value="@best" selected>' in text(ann.get(f"{NEW}?way=prompts&model=@best"))


# Who may


def test_who_may(project, ann):
    looker = person("looker", project, rights=("view_batch",))
    for address in (NEW, f"{NEW}/sample.csv", f"{NEW}/sample.jsonl"):
        assert looker.get(address).status_code == 403
        assert Client().get(address).url.startswith("/login")
    for address in (NEW, CHECK, PREVIEW, REPORTS[0]):
        assert looker.post(address).status_code == 403
    assert ann.get(CHECK).status_code == 405 and ann.put(NEW).status_code == 405
    assert not File.objects.exists()


def test_strangers_files_are_refused(ann, project):
    eve = person("eve", Project.objects.create(name="hers"))
    friend = person("friend", project)
    given = fields(check(ann, jsonl(line("a"))))
    mine = fields(check(eve, jsonl(line("b"))))
    for client in (eve, friend):
        start = fields(client.get(NEW))
        stolen = start | {name: given[name] for name in ("kept", "ready", "endpoint")}
        for address in (NEW, CHECK):
            answer = client.post(address, stolen)
            assert answer.status_code == 422 and "Choose it again" in text(answer)
    assert eve.post(NEW, mine | {"ready": given["ready"]}).status_code == 422
    assert not Batch.objects.exists()
    table = fields(check(ann, b"prompt\nhi\n", "t.csv", model="scripted"))
    for file in File.objects.exclude(pk=mine["kept"]):
        for client in (eve, friend):
            assert "Choose it again" in text(client.post(CHECK, fields(client.get(NEW)) | {"kept": file.pk}))
            assert client.post(REPORTS[0], {"kept": file.pk, "endpoint": CHAT}).status_code == 404
    assert File.objects.count() == 3 and not Batch.objects.exists()
    forged = friend.post(NEW, fields(friend.get(NEW)) | table)
    assert forged.status_code == 422 and not Batch.objects.exists()
    batch = made(ann.post(NEW, given))
    assert "Nothing is wrong" in text(check(friend, kept=batch.input_file_id)), "its project has it now"
    assert eve.post(CHECK, fields(eve.get(NEW)) | {"kept": batch.input_file_id}).status_code == 422


def test_a_file_that_is_prepared_goes_with_its_project_and_its_person(ann, project):
    given = fields(check(ann, jsonl(line("a"))))
    project.members.clear()
    other = Project.objects.create(name="other")
    other.members.add(User.objects.get(username="ann"))
    assert "Choose it again" in text(ann.post(NEW, given | {"project": other.pk}))
    project.members.add(User.objects.get(username="ann"))
    File.objects.update(created_by=None)  # as when somebody is deleted
    assert "Choose it again" in text(ann.post(NEW, given))
    assert not Batch.objects.exists()


@pytest.mark.parametrize("file_id", ["nothing", "\0", "file-\0", "<b>", "x" * 10_000])
def test_ids_that_are_none(ann, file_id):
    assert "Choose it again" in text(ann.post(CHECK, fields(ann.get(NEW)) | {"kept": file_id}))
    assert ann.post(REPORTS[0], {"kept": file_id, "endpoint": CHAT}).status_code == 404
    assert "Choose it again" in text(ann.post(PREVIEW, {"way": "table", "kept": file_id}))
    assert "Choose it again" in text(ann.get(NEW, {"file": file_id}))


def test_a_project_of_others_is_refused(ann):
    hers = Project.objects.create(name="hers")
    answer = check(ann, jsonl(line("a")), status=422, project=hers.pk)
    assert "Choose one of your projects" in text(answer) and not File.objects.exists()
    nobody = person("nobody")
    start = {"model": "", "endpoint": "", "priority": 0, "completion_window": "24h"}
    answer = nobody.post(CHECK, start | {"file": SimpleUploadedFile("a.jsonl", jsonl(line("a")))})
    assert answer.status_code == 422 and not File.objects.exists()


# What comes to nothing


def test_a_file_that_was_cleaned_away(ann):
    given = fields(check(ann, jsonl(line("a")), **{"key-0": "team", "value-0": "search"}))
    File.objects.update(expires_at=timezone.now())
    purge.files()
    for address in (NEW, CHECK):
        answer = ann.post(address, given)
        assert answer.status_code == 422 and "Choose it again" in text(answer)
        assert 'value="search"' in text(answer) and not Batch.objects.exists()


def test_a_file_that_is_looked_at_is_kept(ann):
    found = check(ann, jsonl(line("a")))
    File.objects.update(expires_at=timezone.now() + timedelta(minutes=10))
    again(ann, found)
    assert File.objects.get().expires_at > timezone.now() + timedelta(minutes=59)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.jsonl", b"", "The file is empty"),
        ("a.jsonl", b"\n \n\n", "every line is blank"),
        ("a.xlsx", b"PK\x03\x04rest", "begins like an Excel file and is none"),
        ("a.csv", b"%PDF-1.7", "a PDF document"),
        ("a.bin", b"x\0y", "a binary file"),
        ("a.jsonl", '{"body": {}}'.encode("utf-16"), "UTF-16"),
        ("a.csv", "prompt\ncafé\ncafé\n".encode() + b"caf\xe9\n", "Line 4 is not UTF-8"),
        ("a.json", b'[{"custom_id": "a"}]', "one JSON list"),
        ("a.txt", b"just some words\n", "The table has no rows"),
        ("a.csv", b"prompt\n", "The table has no rows"),
    ],
)
def test_files_that_are_none(ann, name, content, said):
    start = fields(ann.get(NEW)) | {"file": SimpleUploadedFile(name, content), "model": "scripted"}
    answer = ann.post(CHECK, start, headers=HTMX)
    assert said in text(answer) and text(answer).startswith("<form"), text(answer)[:3000]
    assert 'name="ready" value=""' in text(answer)


def test_limits(ann, settings):
    settings.VBS_MAX_BATCH_MB = settings.VBS_MAX_LINE_MB = 1
    big = check(ann, b"x" * (2**20 + 1), status=413)
    assert "at most 1 MB" in text(big) and not File.objects.exists()
    settings.VBS_MAX_BATCH_MB = 4
    found = check(ann, jsonl(line("a"), line("b", "x" * 2**20), line("c")))
    (problem,) = found.context["result"].problems
    assert problem.code == "line_too_large" and len(problem.text) <= 301 and "<textarea" not in text(found)
    assert len(text(found)) < 40_000
    assert made(create(ann, again(ann, found, do="leave-out"))).total == 2
    settings.VBS_MAX_BATCH_REQUESTS = 2
    found = check(ann, jsonl(*[line(str(number)) for number in range(3)]))
    assert "more than 2 requests" in text(found) and "Leave out" not in text(found)


def test_one_long_line_is_clipped(ann):
    found = check(ann, jsonl(line("a", "x" * 2**20, model="nobody"), line("b", "y" * 5000, model="nobody")))
    assert len(text(found)) < 40_000
    assert [one.line for one, typed in found.context["wrong"] if typed is not None] == [2]


def test_hostile_names_and_lines(ann):
    evil = "<script>alert(1)</script>\x1b[31m\u202egnp"
    found = check(ann, jsonl(line("a", model=evil), b"\x1b[31m<b>\xe2\x80\xae{"), f"{evil}.jsonl".replace("/", ""))
    page = text(found)
    assert "<script>alert" not in page and "\x1b" not in page.split("<textarea")[0]
    assert "\u202e" not in page.split("<textarea")[0] and "⟨RLO⟩" in page and "⟨ESC⟩[31m" in page
    file = File.objects.get()
    assert "\x1b" not in file.filename
    assert b"\x1b" not in b"".join(ann.post(REPORTS[0], fields(found)).streaming_content)


def test_wrong_fields_keep_the_file(ann):
    found = check(ann, jsonl(line("a")))
    answer = create(ann, found, priority=101, **{"value-3": "no key"})
    page = text(answer)
    assert answer.status_code == 422 and "less than or equal to 100" in page and "Give this value a key" in page
    assert "Nothing is wrong" in page and not Batch.objects.exists()
    made(create(ann, answer, priority=100, **{"key-3": "k"}))
    twice = create(ann, check(ann, jsonl(line("a"))), **{"key-0": "k", "key-1": "k"})
    assert "is used twice" in text(twice)
    assert "Choose a file first" in text(ann.post(NEW, fields(ann.get(NEW))))
    assert create(ann, found, model="nobody").status_code == 422


def test_no_model_yet(ann):
    Model.objects.all().delete()
    page = text(ann.get(NEW))
    assert "No model is ready" in page and 'href="/models/"' in page and "model add-demo" in page
    assert "<form id=" not in page


def test_a_full_disk_is_said(ann, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.blobs, "put", full)
    assert "storage is full" in text(check(ann, jsonl(line("a")), status=507))


def test_htmx_is_answered_with_the_form(ann):
    given = fields(ann.get(NEW)) | {"file": io.BytesIO(jsonl(line("a")))}
    answer = ann.post(CHECK, given, headers=HTMX)
    assert text(answer).startswith('<form id="new-batch"') and "csrfmiddlewaretoken" in text(answer)


def test_a_large_file_is_read_with_few_queries(ann, django_assert_max_num_queries):
    start = fields(ann.get(NEW)) | {"file": SimpleUploadedFile("a.jsonl", jsonl(*[line(str(n)) for n in range(2000)]))}
    with django_assert_max_num_queries(40):
        ann.post(CHECK, start)
