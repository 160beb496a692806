"""What holds on every page: how much a first visit loads, and that who is in no project is told so."""

import gzip
import re
from pathlib import Path

import pytest
from django.conf import settings as product
from django.contrib.staticfiles import finders

from tests.people import person, superuser, text
from tests.vbs.pages.test_every_action import EXAMPLES, PAGES
from tests.vbs.pages.test_every_form import World
from vbs.accounts.models import Project
from vbs.pages.access import NAVIGATION

MOST_BYTES = 100_000  # a first visit, as compressed as a browser gets it
ASSET = re.compile(r'<(?:script|link)[^>]+(?:src|href)="/static/([^"?]+)"')
OWN = [address for address, *_ in NAVIGATION] + ["/batches/new", "/system/settings", "/system/audit", "/help/parts"]


@pytest.fixture(autouse=True)
def plain_files(settings):
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }


def compressed(content):
    return len(gzip.compress(content, 9))


@pytest.mark.parametrize("address", OWN)
def test_a_first_visit_is_small(db, address):
    page = superuser().get(address)
    assert page.status_code == 200
    sizes = {"the page": compressed(page.content)}
    for name in ASSET.findall(text(page)):
        sizes[name] = compressed(Path(finders.find(name)).read_bytes())
    assert "vbs.css" in sizes and "vbs.js" in sizes and any(name.endswith("htmx-2.min.js") for name in sizes)
    assert sum(sizes.values()) <= MOST_BYTES, sizes


def test_who_is_in_no_project_is_told_so_on_every_page(db):
    superuser("ada")
    person("admin", name="grace")
    lost = person("operator")
    seen = 0
    for name, address, _ in PAGES:
        answer = lost.get(address, headers={"Accept": "text/html"})
        if not answer.streaming and "<main" in text(answer) and answer.status_code in (200, 403, 404):
            assert "You are in no project yet." in text(answer) and "grace" in text(answer), (name, answer.status_code)
            seen += 1
    assert seen > 20
    lost.user.projects.add(Project.objects.create(name="one"))
    assert "You are in no project yet." not in text(lost.get("/"))


def test_every_state_that_has_a_colour_is_on_the_page_of_parts(root):
    """The screenshots hold that page, so a state that is missing there is held by nothing."""
    sheet = (product.BASE_DIR / "static" / "vbs.css").read_text()
    page = text(root.get("/help/parts"))
    for state in sorted(set(re.findall(r"\.state\.([\w-]+)", sheet))):
        assert f'class="state {state}"' in page, state


@pytest.mark.parametrize("part", ["tabs", "readings", "secret", "pager", "alias", "chart", "stacked", "facts", "rows"])
def test_every_part_is_on_the_page_of_parts(root, part):
    assert re.search(rf'class="[^"]*\b{part}\b', text(root.get("/help/parts")))


def test_every_page_has_one_heading_of_its_own_and_no_id_twice(db):
    world, seen = World(), 0
    there = {
        "/models/1/": f"/models/{world.model.pk}/", "/people/1/": f"/people/{world.other.pk}/",
        "/help/a": "/help/operations",
        "/projects/1/": f"/projects/{world.project.pk}/", "/keys/1/": f"/keys/{world.key.pk}/",
        "/settings/batch_1": "/settings/VBS_MAX_WAIT_MINUTES", "/batch_1/": f"/{world.batch.pk}/",
        EXAMPLES["uuid"]: str(world.worker.pk),
    }  # fmt: skip
    for name, address, _ in PAGES:
        for example, found in there.items():
            address = address.replace(example, found)
        answer = world.root.get(address, headers={"Accept": "text/html"})
        if answer.status_code != 200 or answer.streaming or "<main" not in text(answer):
            continue
        assert text(answer).count("<h1") == 1, name
        ids = re.findall(r'\sid="([^"]+)"', text(answer))
        assert len(ids) == len(set(ids)), (name, [one for one in set(ids) if ids.count(one) > 1])
        seen += 1
    assert seen > 30, seen
