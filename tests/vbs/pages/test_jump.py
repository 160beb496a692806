"""What `/` and Ctrl-K find: documents, and batches, models and pages that somebody may see, and nothing of others."""

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from models_registry.models import Alias, Model
from tests.batches.pages.test_history_page import HOSTILE, batch
from tests.people import person, superuser
from vbs.accounts.models import Project
from vbs.help import documents
from vbs.pages.jump import MOST

pytestmark = pytest.mark.django_db


@pytest.fixture
def mine():
    return Project.objects.create(name="mine")


@pytest.fixture
def theirs():
    return Project.objects.create(name="theirs")


def found(client, text=""):
    answer = client.get("/jump", {"q": text})
    assert answer.status_code == 200 and answer["Cache-Control"] == "no-store"
    return answer.json()["found"]


def addresses(client, text):
    return [one["address"] for one in found(client, text)]


def test_a_batch_by_its_words_and_by_its_id(mine):
    one = batch(mine, metadata={"job": "zanzibar reviews"})
    batch(mine, place=1)
    looker = person("viewer", mine)
    assert addresses(looker, "zanzi") == addresses(looker, one.pk) == [f"/batches/{one.pk}/"]
    assert {"kind", "title", "note", "address"} == set(found(looker, "zanzi")[0])


def test_nothing_of_another_project(mine, theirs):
    one = batch(theirs, metadata={"job": "zanzibar"})
    own = batch(mine, place=1, metadata={"job": "zanzibar"})
    looker = person("viewer", mine)
    assert addresses(looker, "zanzibar") == [f"/batches/{own.pk}/"] and addresses(looker, one.pk) == []
    assert addresses(person("viewer"), "zanzibar") == []
    both = person("viewer", mine, theirs)
    both.post("/project", {"project": mine.pk})
    assert addresses(both, one.pk) == [f"/batches/{one.pk}/"], "whichever project is chosen"


def test_a_model_by_its_name_and_by_an_alias():
    model = Model.objects.create(name="Qwen3-8B", source="/nowhere")
    Alias.objects.create(name="newest", model=model)
    Model.objects.create(name="other", source="/nowhere")
    looker = person("viewer")
    assert addresses(looker, "qwen") == addresses(looker, "newest") == [f"/models/{model.pk}/"]


def test_a_document_by_its_title_and_a_section_by_its_heading():
    looker = person("viewer")
    document = next(one for one in documents.documents() if len(one.rendered.contents) > 1)
    assert f"/help/{document.name}" in addresses(looker, document.title)
    heading = document.rendered.contents[1]
    (one,) = [
        one for one in found(looker, heading.text) if one["address"].endswith(f"/help/{document.name}#{heading.anchor}")
    ]
    assert (one["kind"], one["note"]) == ("Document", document.title)
    assert looker.get(one["address"]).status_code == 200
    kinds = [one["kind"] for one in found(looker, "models")]
    assert kinds.index("Page") < kinds.index("Document"), "a page comes before what is written about it"


@pytest.mark.parametrize("role", ["", "viewer", "operator", "admin", "superuser"])
def test_every_page_that_is_found_can_be_opened(role, mine):
    client = superuser() if role == "superuser" else person(role, mine)
    for letter in "abcdeghilmnopqrst":
        for one in found(client, letter):
            if one["kind"] == "Page":
                assert client.get(one["address"], follow=True).status_code == 200, one
    assert addresses(client, "audit") == (["/system/audit"] if role in ("admin", "superuser") else [])


def test_without_a_text_there_is_something_of_each(mine):
    one = batch(mine)
    kinds = [each["kind"] for each in found(person("viewer", mine))]
    assert kinds == ["Batch", "Page", "Page", "Page"] and one.pk


@pytest.mark.parametrize("text", [*HOSTILE, "x" * 5000, "\0"])
def test_whatever_is_typed(mine, text):
    batch(mine, metadata={"job": "zanzibar"})
    found(person("viewer", mine), text)


def test_however_many_there_are_the_answer_is_short(mine):
    for place in range(3 * MOST):
        batch(mine, place=place, metadata={"job": "nightly"})
        Model.objects.create(name=f"nightly-{place}", source="/nowhere")
    looker = person("viewer", mine)
    found(looker, "nightly")
    with CaptureQueriesContext(connection) as queries:
        assert len(found(looker, "nightly")) == 2 * MOST
    assert len(queries) < 15


def test_who_has_not_signed_in_signs_in():
    assert Client().get("/jump", {"q": "a"})["Location"].startswith("/login")
