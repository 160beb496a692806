"""The documents in the product: every one is shown, every link leads somewhere, and nothing of them is raw HTML."""

import re
from html.parser import HTMLParser

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import Resolver404, resolve

from models_registry.models import Model, ModelState
from vbs.accounts import roles
from vbs.help import documents
from vbs.help.markdown import anchor, render
from vbs.pages import recipes
from vbs.settings import BASE_DIR

DOCUMENTS = {
    *(
        "start",
        "from-openai",
        "from-vllm-batch-server",
        "batches",
        "pages",
        "models",
        "operations",
        "settings",
        "security",
    ),
    *("architecture", "map", "contributing", "style", "tests", "dependencies"),
    *("api", "commands", "benchmarks", "changelog"),
}
ALLOWED = {
    "h1", "h2", "h3", "h4", "h5", "h6", "p", "ul", "ol", "li", "strong", "em", "code", "pre", "a", "br", "hr",
    "blockquote", "table", "thead", "tbody", "tr", "th", "td", "div", "button",
}  # fmt: skip
ATTRIBUTES = {
    "id", "href", "rel", "class", "tabindex", "role", "aria-label", "scope", "type", "data-copies", "start",
}  # fmt: skip


@pytest.fixture
def looker(db):
    client = Client()
    client.force_login(User.objects.create_user("looker"))
    return client


@pytest.fixture
def written(settings, tmp_path):
    """Documents of our own."""
    (tmp_path / "docs").mkdir()
    settings.BASE_DIR = tmp_path

    def write(text, name="docs/api.md"):
        (tmp_path / name).write_text(text)

    return write


def text(client, address, **query):
    response = client.get(address, query)
    assert response.status_code == 200
    return response.content.decode()


class Tags(HTMLParser):
    """What tags and attributes there are."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def of(self, name):
        return [attrs[name] for _, attrs in self.found if name in attrs]


# The documents of this repository


def test_they_are_all_there_in_order():
    assert {entry.name for entry in documents.entries()} == DOCUMENTS
    found = documents.parts()
    assert [part.title for part in found] == ["Start", "Use", "Curate", "Tune", "Operate", "Extend", "Reference"]
    assert [entry.name for entry in found[0].entries][:2] == ["start", "from-openai"]
    assert [one.name for one in documents.documents()] == [entry.name for part in found for entry in part.entries]


def test_the_index_names_every_document():
    named = {entry.path for entry in documents.entries()}
    there = {str(path.relative_to(BASE_DIR)) for path in BASE_DIR.glob("docs/*.md")}
    assert named == there - {"docs/README.md", "docs/STATUS.md"} | {path for path in named if "/" not in path}


def test_the_index_is_beside_every_document(looker):
    page = text(looker, "/help/operations")
    assert page.index(">Operate<") < page.index('href="/help/operations" aria-current="page">Operations<')
    assert 'Curate <span class="quiet">to come</span>' in page
    assert page.index("/help/from-openai") < page.index("/help/models") < page.index("/help/api")


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_a_document(looker, name):
    page = text(looker, f"/help/{name}")
    found = documents.document(name)
    assert found and found.rendered.html in page and found.title in page
    tags = Tags(found.rendered.html)
    assert {tag for tag, _ in tags.found} <= ALLOWED
    assert {attribute for _, attrs in tags.found for attribute in attrs} <= ATTRIBUTES
    assert "&lt;!--" not in found.rendered.html, "marks for programs are not shown"
    assert [tag for tag, _ in tags.found].count("h1") == 1


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_every_link_and_anchor_leads_somewhere(looker, name):
    page = Tags(text(looker, f"/help/{name}"))
    ids = page.of("id")
    assert len(ids) == len(set(ids))
    for address in page.of("href") + page.of("data-copies"):
        path, _, fragment = address.partition("#")
        if path.startswith("http") or path.startswith("data:") or path.startswith("/static/"):
            continue
        there = page
        if path and path.startswith("/help/") and path != "/help/":
            there = Tags(text(looker, path))
        elif path and path not in ("/queue/", "/batches/", "/system/"):  # these are made elsewhere
            try:
                resolve(path)
            except Resolver404:
                pytest.fail(f"{address} leads nowhere")
        assert not fragment or fragment in there.of("id"), address


def test_links_between_documents():
    start, models = documents.document("start"), documents.document("models")
    assert 'href="/help/api#h-tables"' in start.rendered.html and 'href="/help/models"' in start.rendered.html
    assert 'href="/help/api#h-estimates"' in models.rendered.html
    assert "STATUS" not in start.rendered.html and ">status<" not in start.rendered.html
    assert "test_kills.py" in start.rendered.html and "tests/system/test_kills.py</a>" not in start.rendered.html


@pytest.mark.parametrize("name", ["STATUS", "status", "nothing", "README", "readme"])
def test_what_is_not_shown(looker, name):
    assert looker.get(f"/help/{name}").status_code == 404


@pytest.mark.parametrize("name", ["../README", "..%2fREADME", "docs/api", "%2e%2e/vbs"])
def test_a_name_is_no_path(looker, name):
    assert looker.get(f"/help/{name}").status_code == 404


def test_who_may_look(db, looker):
    for address in ("/help/", "/help/api"):
        assert Client().get(address).url == f"/login?next={address}"
        assert looker.post(address).status_code == 405


# Documents as such


def html(source):
    return render(source, lambda address: documents.resolve(address, "docs/api.md")).html


@pytest.mark.parametrize(
    "source",
    [
        "<script>alert(1)</script>",
        "text <img src=x onerror=alert(1)> text",
        "<div style='x'>\n\nhello\n\n</div>",
        "# <b>a</b>",
        "| <i>a</i> |\n|---|\n| <u>b</u> |",
        "```\n</pre><script>alert(1)</script>\n```",
        "    </pre><script>alert(1)</script>",
        "`<script>`",
        "[a](javascript:alert(1))",
        "[a](data:text/html,<script>alert(1)</script>)",
        "[a](vbscript:x)",
        "![<script>](https://example.org/x.png)",
        '[a](https://example.org/" onmouseover="alert(1))',
        "```<script>\ncode\n```",
        "<https://example.org/<script>>",
        "&lt;script&gt;",
        "x\n<!-- <script> -->",
    ],
)
def test_nothing_of_a_document_is_html(source):
    tags = Tags(html(source))
    assert {tag for tag, _ in tags.found} <= ALLOWED
    assert {attribute for _, attrs in tags.found for attribute in attrs} <= ATTRIBUTES
    assert all(address.startswith("https://") for address in tags.of("href"))


def test_nothing_is_loaded_from_elsewhere():
    made = html("[![a badge](https://example.org/badge.svg)](https://example.org) ![local](docs/x.png)")
    assert "<img" not in made and "a badge</a>" in made and "local" in made
    assert 'rel="noopener noreferrer"' in made


def test_links_that_lead_nowhere_are_words():
    for address in ("../vbs/settings.py", "/etc/passwd", "STATUS.md", "../../README.md", "mailto:a@example.org", ""):
        assert html(f"see [the *words*]({address}) here").strip() == "<p>see the <em>words</em> here</p>"
    assert html("[here](#a-part)").strip() == '<p><a href="#h-a-part">here</a></p>'
    assert 'href="/help/start"' in html("[up](../README.md)")
    assert 'href="/help/"' in html("[the book](README.md)") and 'href="/help/changelog"' in html("[c](../CHANGELOG.md)")


def test_headings_code_and_tables():
    made = render(
        "# One\n## Two `a_b`\ntext\n## Two `a_b`\n### Main\n```sh\nls <x>\n```\n\n| a | b |\n|--|--:|\n| 1 | 2 |", str
    )
    assert [(one.level, one.anchor) for one in made.contents] == [(2, "h-two-a_b"), (2, "h-two-a_b-1"), (3, "h-main")]
    assert made.title == "One" and made.sections[1].text == "text" and "ls <x> a b 1 2" in made.sections[3].text
    assert '<pre id="code-1" tabindex="0">ls &lt;x&gt;\n</pre>' in made.html and 'data-copies="#code-1"' in made.html
    assert '<td class="number">2</td>' in made.html and "style" not in made.html and 'scope="col"' in made.html
    assert anchor("A batch's way") == "h-a-batchs-way" and anchor("Does it fit?") == "h-does-it-fit"


def test_a_document_that_has_changed_is_rendered_anew(looker, written):
    import os

    from django.conf import settings

    written("# First")
    assert "First" in text(looker, "/help/api")
    before = documents.document("api")
    assert documents.document("api") is before
    written("# Second")
    os.utime(settings.BASE_DIR / "docs/api.md", (1, 1))
    assert "Second" in text(looker, "/help/api")


def test_without_the_documents(looker, settings, tmp_path):
    settings.BASE_DIR = tmp_path
    page = text(looker, "/help/")
    assert "were not installed" in page and "/v1/batches" in page
    assert looker.get("/help/api").status_code == 404
    assert "Nothing about" in text(looker, "/help/", q="batch")


def test_a_document_that_is_no_text(looker, written, settings):
    (settings.BASE_DIR / "docs" / "api.md").write_bytes(b"# \xff\x00\n\xfe")
    text(looker, "/help/api")
    (settings.BASE_DIR / "docs" / "UPPER case.md").write_text("# no")
    text(looker, "/help/")


# Recipes


def test_recipes_have_this_servers_address_and_a_ready_model(looker):
    Model.objects.create(name="a-draft", kind="scripted", state=ModelState.DRAFT)
    page = text(looker, "/help/")
    assert "your-model" in page and "No model is ready yet" in page and "http://testserver/v1/batches" in page
    Model.objects.create(name="needs$(quoting)", kind="scripted")
    Model.objects.create(name="org/ready-1.5", kind="scripted")
    page = text(looker, "/help/")
    assert "model=org/ready-1.5" in page and "needs$(quoting)" not in page and "your-model" not in page
    assert "base_url=&quot;http://testserver/v1&quot;" in page
    ids = re.findall(r'data-copies="#([\w-]+)"', page)
    assert len(ids) >= 7 and all(f'<pre id="{one}"' in page for one in ids)


def test_the_address_is_as_the_browser_sees_it(looker, settings):
    settings.ALLOWED_HOSTS = ["*"]
    page = looker.get("/help/", headers={"host": "vbs.example.org:8443"}, secure=True).content.decode()
    assert "https://vbs.example.org:8443/v1" in page


@pytest.mark.parametrize("host", ["<script>alert(1)</script>", 'x"onload="y', "a b", "x;rm -rf"])
def test_a_host_header_is_never_html(looker, settings, host):
    settings.ALLOWED_HOSTS = ["*"]
    answer = looker.get("/help/", headers={"host": host})
    assert host.encode() not in answer.content
    assert answer.status_code == 400 or b"<script>alert" not in answer.content


def test_an_address_is_escaped(looker, monkeypatch):
    from django.http import HttpRequest

    monkeypatch.setattr(HttpRequest, "get_host", lambda self: "<script>alert(1)</script>")
    page = text(looker, "/help/")
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page


def test_recipes_are_valid():
    import ast
    import json

    made = {one.id: one.code for one in recipes.recipes("http://127.0.0.1:4080", "m")}
    ast.parse(made["client"])
    lines = made["file"].splitlines()[1:-1]
    assert [json.loads(line)["body"]["model"] for line in lines] == ["m", "m"]


# Search


def test_search(looker):
    page = text(looker, "/help/", q="CLEANUP")
    assert 'href="/help/models#h-removing"' in page and re.search(r"<mark>cleanup</mark>", page, re.I)
    assert "Nothing about" in text(looker, "/help/", q="cleanup xyzzy")
    hits = documents.search("estimates")
    assert hits[0].heading.text == "Estimates", "what is in the heading comes first"


@pytest.mark.parametrize(
    "asked", ["<script>alert(1)</script>", "((((", "\\", "%", "a" * 5000, "\0", "İ", " ".join("abcdefghijklm")]
)
def test_whatever_is_searched_for(looker, asked):
    page = text(looker, "/help/", q=asked)
    assert "<script>alert" not in page and "a" * 300 not in page[page.index("<h1>") :]


def test_hits_are_escaped(looker, written):
    written("# One\nsome <b>bold</b> word")
    page = text(looker, "/help/", q="bold")
    assert "&lt;b&gt;<mark>bold</mark>&lt;/b&gt;" in page


def test_only_who_may_see_keys_is_led_to_them(looker):
    assert "/system/keys" not in text(looker, "/help/")
    keeper = User.objects.create_user("keeper")
    roles.assign(keeper, "operator")
    looker.force_login(keeper)
    assert 'href="/system/keys"' in text(looker, "/help/")
