"""Results as a file, and that file as a table: on the screen, whole in docs/benchmarks.md, in a few rows in the README.

A file holds what was measured on one machine on one day. Benchmarks that are run again replace themselves in it. The
tables have the newest figures of each benchmark on that machine, with those versions.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from benchmarks import machine
from benchmarks.rows import Row
from vbs.run.stack import BASE_DIR

RESULTS = BASE_DIR / "benchmarks" / "results"
MARKERS = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- /benchmarks -->)", re.DOTALL)
# The rows of the README: of which benchmark, which of its rows, and how the README calls it.
FEW = (
    ("engine", "mixed: vbs ÷ run_batch", "tokens/s against `vllm run_batch`, the same engine options on both sides"),
    ("default", "mixed: vbs ÷ run_batch", "tokens/s against `vllm run_batch`, no options on either side"),
    ("pipeline", "Create to completed", "50,000 requests through an engine that answers at once"),
    ("waiting", "Create to first request, median", "from the creation of a batch to its first request, engine loaded"),
    ("pages", "its requests, median", "the requests of a batch as a page, among five million"),
)


def keep(measured: Mapping[str, Sequence[Row]], order: Sequence[str]) -> Path:
    """Add to today's file of this machine, and write its table into the pages that have a place for it."""
    about, now = machine.machine(), datetime.now(UTC)
    path = RESULTS / f"{now:%Y-%m-%d}-{machine.slug(about)}.json"
    before: dict[str, Any] = orjson.loads(path.read_bytes())["benchmarks"] if path.exists() else {}
    commit = machine.commit()
    new = {
        name: {"at": f"{now:%Y-%m-%dT%H:%MZ}", "commit": commit, "rows": [asdict(row) for row in rows]}
        for name, rows in measured.items()
    }
    every = before | new
    content = {
        "date": f"{now:%Y-%m-%d}",
        "machine": about,
        "benchmarks": {name: every[name] for name in order if name in every},
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    for page, text in pages(newest(about, order)).items():
        page.write_text(text)
    return path


def newest(about: Mapping[str, str], order: Sequence[str]) -> dict[str, Any]:
    """What was measured last of each benchmark on this machine with these versions."""
    kept = sorted(RESULTS.glob("*.json"))  # the oldest first
    contents = [content for path in kept if (content := orjson.loads(path.read_bytes()))["machine"] == about]
    found = {name: one for content in contents for name, one in content["benchmarks"].items()}
    return {"machine": about, "benchmarks": {name: found[name] for name in order if name in found}}


def pages(content: Mapping[str, Any]) -> dict[Path, str]:
    """The documents that have a place for a table, with theirs in it."""
    made = {page: (page.read_text(), write(content)) for page, write in WRITTEN.items() if page.exists()}
    return {page: _with_table(text, table) for page, (text, table) in made.items()}


def page_table(content: Mapping[str, Any]) -> str:
    """All rows with their machine, in Markdown."""
    commits = ", ".join(dict.fromkeys(one["commit"] for one in content["benchmarks"].values()))
    lines = [
        f"{_measured(content)} at commit {commits}.",
        "",
        "| benchmark | what | figure | target | | |",
        "|---|---|---:|---:|---|---|",
    ]
    for name, one in content["benchmarks"].items():
        for row in (Row(**fields) for fields in one["rows"]):
            lines.append(f"| {name} | {row.name} | {_figure(row)} | {_target(row)} | {_met(row)} | {row.note} |")
            name = ""
    return "\n".join(lines)


def few_rows(content: Mapping[str, Any]) -> str:
    """What the README tells: a figure of each benchmark that says most."""
    lines = [f"{_measured(content)}.", "", "| what | figure | |", "|---|---:|---|"]
    for benchmark, name, words in FEW:
        rows = content["benchmarks"].get(benchmark, {"rows": ()})["rows"]
        for row in (Row(**fields) for fields in rows if fields["name"] == name):
            lines.append(f"| {words} | {_figure(row)} | {row.note} |")
    return "\n".join(lines)


def screen_table(measured: Mapping[str, Sequence[Row]]) -> str:
    cells = [
        (name, row.name, _figure(row), _target(row), _met(row), row.note)
        for name, rows in measured.items()
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    return "\n".join(
        f"{line[0]:{widths[0]}}  {line[1]:{widths[1]}}  {line[2]:>{widths[2]}}  {line[3]:>{widths[3]}}  "
        f"{line[4]:{widths[4]}}  {line[5]}".rstrip()
        for line in cells
    )


def _with_table(text: str, table: str) -> str:
    return MARKERS.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


def _measured(content: Mapping[str, Any]) -> str:
    """When, and on what."""
    about, days = content["machine"], sorted({one["at"][:10] for one in content["benchmarks"].values()})
    when = f"on {days[0]}" if len(days) == 1 else f"from {days[0]} to {days[-1]}"
    return (
        f"Measured {when}: {about['cpu']}, {about['cores']} cores, {about['memory']} memory, GPU: {about['gpu']}, "
        f"{about['os']}, Python {about['python']}, {about['vllm']}, {about['torch']}"
    )


def _figure(row: Row) -> str:
    return f"{_number(row.figure)} {row.unit}"


def _target(row: Row) -> str:
    if row.at_least is not None:
        return f"≥ {_number(row.at_least)}"
    return f"≤ {_number(row.at_most)}" if row.at_most is not None else ""


def _met(row: Row) -> str:
    return {True: "met", False: "**missed**", None: ""}[row.met]


def _number(value: float) -> str:
    """With as many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


WRITTEN: dict[Path, Callable[[Mapping[str, Any]], str]] = {
    BASE_DIR / "docs" / "benchmarks.md": page_table,
    BASE_DIR / "README.md": few_rows,
}
