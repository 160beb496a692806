"""A table becomes a batch with answers, in Chromium: with the mouse, by the keyboard alone, and on a phone."""

import csv
import io
import re

import openpyxl
import pytest
from playwright.sync_api import expect

from tests.batches.intake.test_tables import LOCALES
from vbs.places import BASE_DIR

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
REVIEWS = BASE_DIR / "examples" / "reviews.csv"
SHEETS = {  # as Excel writes them in each country: what the page understands, and the column with the texts
    "en-US": ("UTF-8, separated by commas", "Review"),
    "de-DE": ("Windows-1252 (Western Europe), separated by semicolons", "Bewertung"),
    "fr-FR, CSV UTF-8": ("UTF-8, separated by semicolons", "Avis"),
    "pl-PL": ("Windows-1250 (Central Europe), separated by semicolons", "Opinia"),
    "ja-JP": ("Shift JIS (Japanese), separated by commas", "感想"),
}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module", autouse=True)
def model(vbs):
    vbs.add_scripted("reader", **{"latency-ms": 2})


def choose(page):
    page.goto("/batches/new?model=reader")
    page.locator("#file").set_input_files(REVIEWS)
    expect(page.locator(".first-rows")).to_contain_text("Boils fast")
    expect(page.get_by_label("Name", exact=True)).to_have_value("reviews")
    expect(page.get_by_label("Id column")).to_have_value("id")


def answered(page):
    """The new batch has the table's name, and the answers are on its page."""
    page.wait_for_url(re.compile(r"/batches/batch_\w+/$"))
    expect(page.locator("h1")).to_contain_text("reviews")
    expect(page.locator("#head .state")).to_have_text(re.compile("completed", re.I), timeout=60_000)
    expect(page.locator("#listing")).to_contain_text("r-01")
    expect(page.locator("#listing")).to_contain_text("Is it positive? Boils fast")


def test_with_the_mouse(vbs, sign_in, tmp_path):
    page = sign_in("operator", at="/batches/")
    choose(page)
    page.get_by_label("Prompt template").fill("Is it positive? ")
    page.get_by_role("button", name="review", exact=True).click()
    expect(page.get_by_label("Prompt template")).to_have_value("Is it positive? {review}")
    preview = page.locator("#preview")
    expect(preview).to_contain_text("Is it positive? Boils fast")
    expect(preview.locator(".filled")).to_have_count(3)
    page.get_by_label("Max tokens").fill("20")
    expect(preview).to_contain_text("Output tokens")
    page.reload()
    expect(page.get_by_label("Prompt template")).to_have_value("Is it positive? {review}")
    expect(preview).to_contain_text("Is it positive? Boils fast")
    page.get_by_role("button", name="Create batch").dblclick()
    answered(page)
    with page.expect_download() as downloaded:
        page.get_by_role("link", name="Excel", exact=True).click()
    downloaded.value.save_as(tmp_path / "results.xlsx")
    head, *rows = openpyxl.load_workbook(tmp_path / "results.xlsx").worksheets[0].iter_rows(values_only=True)
    assert head[:6] == ("custom_id", "id", "product", "stars", "review", "answer")
    assert [row[0] for row in rows][:2] == ["r-01", "r-02"] and rows[0][2] == "kettle"
    assert "Is it positive? Boils fast" in rows[0][5]


def test_by_keyboard_alone(vbs, sign_in):
    page = sign_in("operator", at="/batches/")
    page.goto("/batches/new?model=reader")
    page.get_by_role("button", name="Try it with an example").focus()
    page.keyboard.press("Enter")
    template = page.get_by_label("Prompt template")
    expect(template).to_have_value(re.compile("{review}"))
    template.focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("Is it positive? ")
    for _ in range(40):  # back to the buttons of the columns
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.dataset.inserts") == "review":
            break
    page.keyboard.press("Enter")
    expect(template).to_be_focused()
    expect(page.locator("#preview")).to_contain_text("Is it positive? Boils fast")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == "Create batch":
            break
    page.keyboard.press("Enter")
    answered(page)


def test_on_a_phone(vbs, sign_in):
    page = sign_in("operator", at="/batches/", **PHONE)
    choose(page)
    page.get_by_label("Prompt template").fill("Is it positive? {review}")
    expect(page.locator("#preview")).to_contain_text("Is it positive? Boils fast")
    assert page.evaluate("document.documentElement.scrollWidth <= 390"), "it fits a narrow screen"
    page.get_by_role("button", name="Create batch").tap()
    answered(page)


@pytest.mark.parametrize("locale", SHEETS)
def test_as_excel_writes_it_in(vbs, sign_in, tmp_path, locale):
    content, encoding, delimiter = LOCALES[locale]
    said, column = SHEETS[locale]
    text = io.StringIO(content.decode(encoding).removeprefix("\ufeff"), newline="")
    head, *given = csv.reader(text, delimiter=delimiter)
    page = sign_in("operator", at="/batches/")
    page.goto("/batches/new?model=reader")
    page.locator("#file").set_input_files({"name": "sheet.csv", "mimeType": "text/csv", "buffer": content})
    expect(page.locator(".summary")).to_contain_text(said)
    page.get_by_label("Prompt template").fill("In one word: ")
    page.get_by_role("button", name=column, exact=True).click()
    expect(page.locator("#preview")).to_contain_text(f"In one word: {given[0][head.index(column)]}")
    page.get_by_role("button", name="Create batch").click()
    page.wait_for_url(re.compile(r"/batches/batch_\w+/$"))
    expect(page.locator("#head .state")).to_have_text(re.compile("completed", re.I), timeout=60_000)
    rows = []
    for kind in ("CSV", "Excel"):
        with page.expect_download() as downloaded:
            page.get_by_role("link", name=kind, exact=True).click()
        path = tmp_path / downloaded.value.suggested_filename
        downloaded.value.save_as(path)
        rows.append(csv_rows(path) if kind == "CSV" else excel_rows(path))
    assert rows[0] == rows[1]
    names, *found = rows[0]
    assert names[: len(head) + 2] == ["custom_id", *head, "answer"]
    assert [row[1 : len(head) + 1] for row in found] == given
    assert all(one[head.index(column)] in row[len(head) + 1] for one, row in zip(given, found, strict=True))


def csv_rows(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def excel_rows(path):
    sheet = openpyxl.load_workbook(path).worksheets[0]
    return [["" if cell is None else str(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]


def test_what_was_typed_is_there_again_after_other_tabs_and_going_back(vbs, sign_in):
    page = sign_in("operator", at="/batches/")
    choose(page)
    template = page.get_by_label("Prompt template")
    template.fill("Is it positive? {review}")
    page.get_by_role("link", name="Prompts").click()
    page.get_by_label("Prompts", exact=True).fill("Why?")
    page.go_back()
    expect(template).to_have_value("Is it positive? {review}")
    page.get_by_role("link", name="Prompts").click()
    expect(page.get_by_label("Prompts", exact=True)).to_have_value("Why?")
    page.go_back()
    page.get_by_role("button", name="Create batch").click()
    answered(page)
    page.go_back()
    expect(template).to_have_value("Is it positive? {review}")


def test_bad_rows_are_corrected_in_the_page(vbs, sign_in):
    page = sign_in("operator", allow=("422",), at="/batches/")
    page.goto("/batches/new?model=reader")
    content = b"id,text\na,one\nb,two,more\n"
    page.locator("#file").set_input_files({"name": "t.csv", "mimeType": "text/csv", "buffer": content})
    page.get_by_label("Prompt template").fill("Sum up: {none}")
    page.get_by_role("button", name="Create batch").click()
    expect(page.locator("#result")).to_contain_text("There is no column 'none'")
    page.get_by_label("Prompt template").fill("Sum up: {text}")
    expect(page.locator("#result")).to_have_count(0)
    page.get_by_role("button", name="Create batch").click()
    expect(page.locator("#result")).to_contain_text("1 of 2 requests is wrong")
    page.get_by_label("Row 3").fill('b,"two, more"')
    page.get_by_role("button", name="Check again").click()
    expect(page.locator("#result")).to_contain_text("Nothing is wrong: 2 requests can run")
    expect(page.get_by_label("Prompt template")).to_have_value("Sum up: {text}")
    page.get_by_role("button", name="Create batch").click()
    page.wait_for_url(re.compile(r"/batches/batch_\w+/$"))


def test_prompts_are_typed(vbs, sign_in):
    page = sign_in("operator", at="/batches/")
    page.goto("/batches/new?model=reader")
    page.get_by_role("link", name="Prompts").click()
    page.get_by_label("Prompts", exact=True).fill("Why?\nHow?")
    expect(page.locator("#preview .filled")).to_have_count(2)
    page.get_by_role("button", name="Create batch").click()
    page.wait_for_url(re.compile(r"/batches/batch_\w+/$"))
    expect(page.locator("#head .state")).to_have_text(re.compile("completed", re.I), timeout=60_000)
