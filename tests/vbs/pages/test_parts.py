"""The parts of a page: when one is another one, what is sent of it, and that text cannot pass for what is filled in."""

import re

import pytest
from django.db import connection
from django.http import QueryDict
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

import vbs.urls  # noqa: F401, registers every page
from batches import activity_day, cost
from batches.models import Pause
from batches.pages.batch import measured
from batches.queue import snapshot
from models_registry.models import Model
from tests.vbs.admin.test_admin import rows
from vbs.accounts import roles
from vbs.live.pages import PAGES
from vbs.pages.parts import CHILDREN, SEEN, Part, news, pulse, rendered, unseen, whole
from vbs.pages.viewer import Viewer

EVERYTHING = Viewer(frozenset(roles._OPERATOR), None)
NOBODY, ADDS = Viewer(frozenset(), None), Viewer(frozenset({"batches.add_batch"}), None)
WAITING = "batches/queue/_waiting.html"  # shows its children, or what who may can do


def inner(text="/", name="inner"):
    return Part(name, "_pulse.html", {"url": text, "every": 1})


def outer(*children):
    return Part("waiting", WAITING, {"empty": True}, children)


def drawn(*parts, viewer=NOBODY):
    return rendered(parts, viewer)


def test_a_part_that_was_seen_is_left_out_and_its_children_are_looked_at():
    (old,), (new,) = drawn(outer(inner("/old"))), drawn(outer(inner("/new")))
    assert old.seen == new.seen and old.children[0].seen != new.children[0].seen
    assert list(unseen([new], [])) == [new]
    assert list(unseen([new], list(whole([old])))) == [new.children[0]]
    assert list(unseen([new], list(whole([new])))) == []


def test_a_part_is_another_one_when_its_children_are_others():
    marks = [drawn(outer(*children))[0].seen for children in ((), (inner(),), (inner(), inner(name="more")))]
    assert len(set(marks)) == 3
    (one,), (turned,) = drawn(outer(inner(), inner(name="more"))), drawn(outer(inner(name="more"), inner()))
    assert one.seen != turned.seen


def test_a_part_is_another_one_for_who_may_do_more():
    assert drawn(outer())[0].seen != drawn(outer(), viewer=ADDS)[0].seen


def test_what_is_sent_takes_the_place_of_what_has_its_id():
    (fragment,) = drawn(outer(inner()))
    sent = news([fragment])
    assert re.findall(r'<(\w+) id="(\w+)"( hx-swap-oob="true")?', sent) == [
        ("section", "waiting", ' hx-swap-oob="true"'), ("div", "inner", ""),
    ]  # fmt: skip
    assert re.findall(r'name="seen" value="([^"]+)"', sent) == list(whole([fragment]))
    assert sent.startswith("<template><section") and "hx-swap-oob" not in fragment.html()


def test_the_token_of_a_form_is_filled_in_and_changes_no_mark():
    part = Part("hold", "batches/queue/_hold.html", {"pause": Pause(began_at=timezone.now())})
    (fragment,) = drawn(part, viewer=Viewer(frozenset({"batches.change_pause"}), None))
    assert 'name="csrfmiddlewaretoken" value="abc"' in fragment.html("abc")
    assert 'name="csrfmiddlewaretoken" value=""' in news([fragment])


def test_text_cannot_pass_for_what_is_filled_in():
    (fragment,) = drawn(inner("<seen><token><children>"))
    assert 'data-url="&lt;seen&gt;&lt;token&gt;&lt;children&gt;"' in fragment.html("abc")


def test_the_pulse_says_where_and_how_often_to_ask():
    assert 'id="pulse" data-every="5" data-url="/queue/live"' in drawn(pulse("/queue/live", 5))[0].html()


# Every page


@pytest.fixture
def counted():
    """The queries of a page's builder, and of its templates, anew."""

    def count(page, **named):
        for kept in (snapshot, activity_day.kept, cost.by_model, measured.steps):
            kept.forget()
        with CaptureQueriesContext(connection) as building:
            built = page.build(EVERYTHING, QueryDict(), **named)
        with CaptureQueriesContext(connection) as rendering:
            rendered(built.values(), EVERYTHING)
        return len(building), [query["sql"] for query in rendering]

    return count


@pytest.mark.parametrize("route", sorted(route for route, _ in PAGES))
def test_a_page_asks_as_often_whatever_there_is_and_its_templates_ask_nothing(route, project, counted):
    first = rows(project, 0)
    pk = first.pk if "str:pk" in route else Model.objects.earliest("pk").pk
    named = {"pk": pk} if "pk" in route else {}
    rows(project, 1)
    page = dict(PAGES)[route]
    few, asked = counted(page, **named)
    for number in range(2, 8):
        rows(project, number)
    assert asked == [] and counted(page, **named) == (few, [])


def all_of(fragments):
    for fragment in fragments:
        yield fragment
        yield from all_of(fragment.children)


@pytest.mark.parametrize("route", sorted(route for route, _ in PAGES))
def test_a_template_says_whose_it_is_where_its_mark_stands_and_its_children(route, project):
    """Or it would not be put in its place, be sent again and again, or be without them."""
    first = rows(project, 0)
    pk = first.pk if "str:pk" in route else Model.objects.earliest("pk").pk
    built = dict(PAGES)[route].build(EVERYTHING, QueryDict(), **({"pk": pk} if "pk" in route else {}))
    fragments = list(all_of(rendered(built.values(), EVERYTHING)))
    assert len({fragment.id for fragment in fragments}) == len(fragments)
    for fragment in fragments:
        assert re.match(rf'\s*<\w+[^>]* id="{fragment.id}"[ >]', fragment.text), fragment.text
        assert fragment.text.count(SEEN) == 1, fragment.text
        assert fragment.text.count(CHILDREN) == bool(fragment.children), fragment.text
