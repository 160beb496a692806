"""The tables of figures are written from the results: whole in docs/benchmarks.md, five rows of them in the README."""

import orjson
import pytest

from benchmarks import machine, table
from benchmarks.__main__ import BENCHMARKS
from benchmarks.rows import Row


def last_measured():
    """The machine of the newest figures, and those that are told of it."""
    kept = [orjson.loads(path.read_bytes()) for path in table.RESULTS.glob("*.json")]
    newest = max(kept, key=lambda content: max(one["at"] for one in content["benchmarks"].values()))
    return table.newest(newest["machine"], BENCHMARKS)


def test_the_documents_have_the_newest_figures():
    for page, text in table.pages(last_measured()).items():
        assert page.read_text() == text, f"{page.name} has other figures: python -m benchmarks writes it"


def test_the_readme_has_five_rows():
    assert table.few_rows(last_measured()).count("\n") == 2 + len(table.FEW) + 1 == 8


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Results and pages of our own, on a machine of our own."""
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results")
    whole, few = tmp_path / "whole.md", tmp_path / "few.md"
    monkeypatch.setattr(table, "WRITTEN", {whole: table.page_table, few: table.few_rows})
    for page in (whole, few):
        page.write_text("before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n")
    about = dict.fromkeys(("cpu", "cores", "memory", "os", "python", "vllm", "torch"), "x") | {"gpu": "none"}
    monkeypatch.setattr(machine, "machine", lambda: about)
    return whole, few, about


def test_a_run_writes_both_pages(kept):
    whole, few, _ = kept
    rows = [Row("Create to completed", 1234.5, "requests/s", at_least=800, note="n"), Row("other", 0.5, "s")]
    table.keep({"pipeline": rows}, BENCHMARKS)
    assert "| pipeline | Create to completed | 1,234 requests/s | ≥ 800 | met | n |" in whole.read_text()
    assert "| other | 0.50 s |" in whole.read_text() and "other" not in few.read_text()
    assert "| 50,000 requests through an engine that answers at once | 1,234 requests/s | n |" in few.read_text()
    for page in (whole, few):
        assert page.read_text().startswith("before\n") and page.read_text().endswith("<!-- /benchmarks -->\nafter\n")
        assert "old" not in page.read_text()


def test_what_was_measured_on_an_earlier_day_stays(kept):
    """And what was measured on another machine does not get in."""
    whole, _, about = kept
    table.keep({"waiting": [Row("w", 1, "s")]}, BENCHMARKS)
    (today,) = table.RESULTS.glob("*.json")
    content = orjson.loads(today.read_bytes())
    content["benchmarks"]["waiting"]["at"] = "2020-01-02T03:04Z"
    today.rename(table.RESULTS / "2020-01-02-x.json").write_bytes(orjson.dumps(content))
    elsewhere = content | {"machine": about | {"vllm": "y"}, "benchmarks": {"read": content["benchmarks"]["waiting"]}}
    (table.RESULTS / "2020-01-03-y.json").write_bytes(orjson.dumps(elsewhere))
    table.keep({"pipeline": [Row("p", 2, "s")]}, BENCHMARKS)
    text = whole.read_text()
    assert "| pipeline | p | 2.00 s |" in text and "| waiting | w | 1.00 s |" in text and "| read |" not in text
    assert "Measured from 2020-01-02 to " in text
