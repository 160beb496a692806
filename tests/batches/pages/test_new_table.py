"""A table, or a few typed prompts, become a batch in the browser."""

import html
import io
import json
import re

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from batches.files import blobs
from batches.models import Batch, File
from batches.pages.new.forms import typed_prompts
from models_registry.models import Model, Worker
from tests.batches.intake.wrong_tables import WRONG
from tests.batches.pages.test_new_batch import (
    CHECK,
    HTMX,
    NEW,
    PREVIEW,
    again,
    check,
    create,
    fields,
    made,
    person,
    text,
)
from vbs.accounts.models import Project
from vbs.places import BASE_DIR

REVIEWS = (BASE_DIR / "examples" / "reviews.csv").read_bytes()
CHAT = "/v1/chat/completions"
TEMPLATE = "Is this positive? {Review}"


@pytest.fixture
def project(db):
    return Project.objects.create(name="project")


@pytest.fixture(autouse=True)
def model(project):
    return Model.objects.create(name="scripted", kind="scripted", input_price="1", output_price="2")


@pytest.fixture
def ann(project):
    return person("ann", project)


def requests(batch):
    with blobs.open_blob(batch.input_file.blob) as content:
        return [json.loads(line) for line in content if line.strip()]


def preview(client, response, **given):
    found = client.post(PREVIEW, fields(response) | given, headers=HTMX)
    assert found.status_code == 200
    return found


# A table


def test_reviews_become_a_batch(ann):
    found = check(ann, REVIEWS, "reviews.csv")
    page = text(found)
    assert "Boils fast" in page and "CSV: UTF-8, separated by commas, headings in row 1" in page
    assert [one.number for one in found.context["table"].first][:2] == [2, 3]
    form = found.context["form"]
    assert (form["model"].value(), form["id_column"].value(), form["name"].value()) == ("scripted", "id", "reviews")
    batch = made(create(ann, found, template=TEMPLATE, system="Be brief.", max_tokens=5, temperature=0))
    first = requests(batch)[0]
    assert first["custom_id"] == "r-01" and first["row"]["product"] == "kettle" and first["row"]["stars"] == "5"
    assert first["body"] == {
        "model": "scripted",
        "max_tokens": 5,
        "temperature": 0,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Is this positive? Boils fast, and it is quiet. I would buy it again."},
        ],
    }
    assert batch.total == REVIEWS.count(b"\nr-")


def test_the_example_needs_only_a_click(ann):
    found = check(ann, do="sample", way="table")
    assert "{review}" in found.context["form"]["template"].value()
    assert made(create(ann, found)).total == REVIEWS.count(b"\nr-")


def test_the_preview_follows_what_is_typed(ann):
    found = check(ann, REVIEWS, "reviews.csv")
    assert "appear here as you write" in text(found)
    page = text(preview(ann, found, template=TEMPLATE, max_tokens=10))
    assert page.startswith("<aside") and page.count("Is this positive?") == 3 and "Row 2" in page and "r-01" in page
    rows = found.context["table"].count
    assert f"at most {10 * rows}" in page and "USD" in page, "an estimate with the price of ten tokens each"
    assert "no column &#x27;nothing&#x27;" in text(preview(ann, found, template="{nothing}"))
    assert "Choose a model" in text(preview(ann, found, template=TEMPLATE, model=""))
    assert not Batch.objects.exists() and File.objects.count() == 1


def test_a_template_without_what_it_needs_is_refused(ann):
    found = check(ann, REVIEWS, "reviews.csv")
    for wrong, said in (
        ("", "write a prompt template"),
        ("{nothing}", "no column &#x27;nothing&#x27;"),
        ("{", "A single {"),
    ):
        answer = create(ann, found, template=wrong)
        assert answer.status_code == 422 and said in text(answer), text(answer)[:3000]
    answer = create(ann, found, template=TEMPLATE, model="")
    assert "No model is named" in text(answer) and not Batch.objects.exists()
    answer = create(ann, found, template=TEMPLATE, parameters="{oops", max_tokens=0)
    assert "This is not JSON" in text(answer) and "greater than or equal to 1" in text(answer)


def test_another_reading_is_chosen(ann):
    content = "Titel;;\nName;Größe;Preis\nÄrmel;3;1,50\n".encode("cp1252")
    found = check(ann, content, "größen.csv")
    assert "headings in row 2" in text(found) and "Größe" in text(found)
    found = again(ann, found, **{"read-header_row": "1", "read-delimiter": ","})
    assert "separated by commas, headings in row 1" in text(found)
    found = again(ann, found, **{"read-header_row": "2", "read-delimiter": ";", "read-encoding": "cp1252"})
    assert found.context["table"].headings == ("Name", "Größe", "Preis")
    batch = made(create(ann, found, template="{name}", **{"read-header_row": "2"}))
    assert [one["row"] for one in requests(batch)] == [{"Name": "Ärmel", "Größe": "3", "Preis": "1,50"}]
    wrong = again(ann, found, **{"read-encoding": "nonsense"})
    assert "no encoding" in text(wrong)


def test_bad_rows_are_shown_once_and_mended(ann):
    found = check(ann, b"id,text\na,one\nb,two,more\na,three\n", "t.csv")
    found = create(ann, found, template="{text}", id_column="id")
    assert found.status_code == 422
    page = text(found)
    assert "2 of 3 requests are wrong" in page and page.count('<label for="line-3">') == 1
    found = again(ann, found, do="mend", **{"line-3": 'b,"two,more"'})
    assert "1 of 3 requests is wrong" in text(found)
    found = again(ann, found, do="leave-out")
    assert "Nothing is wrong: 2 requests" in text(found)
    batch = made(create(ann, found))
    assert [one["row"]["text"] for one in requests(batch)] == ["one", "two,more"]


def test_a_workbook_becomes_a_batch(ann):
    from openpyxl import Workbook

    book, content = Workbook(), io.BytesIO()
    book.active.append(["Product", "Stars"])
    book.active.append(["kettle", 5])
    book.active.append(["lamp", 2])
    book.save(content)
    found = check(ann, content.getvalue(), "products.xlsx")
    assert "Excel" in text(found) and "kettle" in text(found)
    batch = made(create(ann, found, template="{product}: {stars}"))
    assert [one["body"]["messages"][0]["content"] for one in requests(batch)] == ["kettle: 5", "lamp: 2"]


def test_a_reload_shows_the_same_file(ann):
    found = check(ann, REVIEWS, "reviews.csv")
    address = re.search(r'data-address="([^"]+)"', text(found))[1].replace("&amp;", "&")
    page = ann.get(f"{NEW}?{address}")
    assert (
        "Boils fast" in text(page) and "data-new" in text(page) and page.context["form"]["model"].value() == "scripted"
    )
    made(create(ann, page, template=TEMPLATE))
    friend = person("friend", Project.objects.get(name="project"))
    assert "Choose it again" in text(friend.get(f"{NEW}?{address}"))


def test_a_form_that_is_sent_twice_makes_one_batch_and_a_changed_one_another(ann):
    given = fields(check(ann, REVIEWS, "reviews.csv")) | {"template": TEMPLATE}
    first, second = ann.post(NEW, given), ann.post(NEW, given)
    assert first.status_code == 302 and first.url == second.url and Batch.objects.count() == 1
    changed = ann.post(NEW, given | {"template": "{product}?"})
    assert changed.status_code == 302 and changed.url != first.url and Batch.objects.count() == 2


def test_a_column_is_inserted_without_scripts(ann):
    found = check(ann, REVIEWS, "reviews.csv")
    found = again(ann, found, insert="review", template="Sum up: ")
    assert found.context["form"]["template"].value() == "Sum up: {review}"


def test_which_way_a_file_goes_is_seen_in_it(ann):
    assert check(ann, REVIEWS, "reviews.csv", way="file").context["form"].way == "table"
    assert check(ann, b'{"a": "x"}\n', "rows.jsonl", way="file").context["form"].way == "table"
    assert check(ann, b'{"custom_id": "a", "body": {}}\n', "in.jsonl", way="table").context["form"].way == "file"


# Prompts


def test_typed_prompts():
    assert typed_prompts("one\r\n two \n") == ["one", "two"]
    assert typed_prompts("first\nof two\n \nsecond\n\n\n") == ["first\nof two", "second"]
    assert typed_prompts(" \n ") == []


def test_typed_prompts_become_a_batch(ann):
    page = ann.get(NEW, {"way": "prompts"})
    assert "Type a prompt" not in text(page) and page.context["form"]["model"].value() == "scripted"
    shown = text(preview(ann, page, prompts="Why?\nHow {so}?", max_tokens=3))
    assert "Prompt 2" in shown and "How {so}?" in shown and "at most 6" in shown
    given = fields(page) | {"prompts": "Why?\nHow {so}?", "name": "Two questions", "max_tokens": 3}
    answer = ann.post(NEW, given)
    assert [one["body"]["messages"][0]["content"] for one in requests(made(answer))] == ["Why?", "How {so}?"]
    assert ann.post(NEW, given).url == answer.url and Batch.objects.count() == 1
    assert "Type a prompt" in text(create(ann, page, prompts=" "))
    assert "No model is named" in text(create(ann, page, prompts="Why?", model=""))


def test_strangers_make_nothing_of_prompts(ann):
    nobody = person("nobody")
    answer = nobody.post(
        NEW, {"way": "prompts", "prompts": "Why?", "model": "scripted", "priority": 0, "completion_window": "24h"}
    )
    assert answer.status_code == 422 and not File.objects.exists()


def test_hostile_tables(ann):
    evil = "<script>alert(1)</script>\x1b[31m\u202e"
    found = check(ann, f"a{evil},b\n{evil},2\n".encode(), f"{evil}.csv".replace("/", ""))
    page = text(found)
    assert "<script>alert" not in page
    shown = text(preview(ann, found, template="{b} {{" + evil))
    assert "<script>alert" not in shown and "\x1b" not in shown


def test_a_large_table_is_previewed_from_its_beginning(ann, django_assert_max_num_queries):
    found = check(ann, b"n,text\n" + b"".join(b"%d,%s\n" % (n, b"x" * 100) for n in range(20_000)), "t.csv")
    assert "20,000 rows" in text(found)
    with django_assert_max_num_queries(60):
        shown = preview(ann, found, template="{text}", max_tokens=1)
    assert "20,000" in text(shown)


@pytest.mark.parametrize("name", ["a.csv", "a.xlsx", "a.jsonl"])
def test_an_upload_that_is_none(ann, name):
    start = fields(ann.get(NEW)) | {"file": SimpleUploadedFile(name, b"\0\1\2")}
    assert ann.post(CHECK, start).status_code == 422


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_table_is_told_with_its_remedy(ann, name):
    filename, content, template, said = WRONG[name]
    start = fields(ann.get(NEW)) | {"file": SimpleUploadedFile(filename, content())}
    answer = ann.post(CHECK, start)
    if answer.context["file"] is not None and not answer.context["table"].why:
        answer = create(ann, answer, template=template)
    page = html.unescape(text(answer))
    assert page.count(said) == 1 and not Batch.objects.exists(), page[:3000]


def test_what_reads_well_though_it_looks_odd(ann):
    found = check(ann, b"text\nHello, world\nOnly this; column\n", "one.csv")
    assert found.context["table"].headings == ("text",) and found.context["table"].count == 2
    batch = made(create(ann, found, template="{text}"))
    assert [one["row"] for one in requests(batch)] == [{"text": "Hello, world"}, {"text": "Only this; column"}]
    found = check(ann, b"text,Text,b\nx,y,z\n", "twice.csv")
    batch = made(create(ann, found, template='{text} {text (2)}: {{"b": "{b}"}}'))
    assert requests(batch)[0]["body"]["messages"][0]["content"] == 'x y: {"b": "z"}'


def test_of_several_models_the_one_is_chosen_that_the_project_used_last(ann, project):
    def chosen():
        return ann.get(NEW).context["form"]["model"].value()

    assert chosen() == "scripted"
    Model.objects.create(name="second", kind="scripted")
    assert chosen() == "", "of two that nobody has used, none"
    Worker.objects.create(cluster="gpu", hostname="here", pid=1, model_name="second")
    assert chosen() == "second", "the one that is loaded"
    other = Project.objects.create(name="another")
    for owner, name in ((project, "scripted"), (other, "second")):
        Batch.objects.create(project=owner, endpoint=CHAT, default_model=name, expires_at=timezone.now())
    assert chosen() == "scripted", "what its own project used last"
    assert check(ann, REVIEWS, "reviews.csv").context["form"]["model"].value() == "scripted"
    Model.objects.filter(name="scripted").update(state="draft")
    assert chosen() == "second", "what cannot be used now is not chosen"
