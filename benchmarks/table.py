"""Results as a file, and that file as a table: on the screen, in docs/benchmarks.md and in the README.

A file holds what was measured on one machine on one day. Benchmarks that are run again replace themselves in it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from benchmarks import machine
from benchmarks.rows import Row
from vbs.run.stack import BASE_DIR

RESULTS = BASE_DIR / "benchmarks" / "results"
PAGES = (BASE_DIR / "docs" / "benchmarks.md", BASE_DIR / "README.md")
MARKERS = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- /benchmarks -->)", re.DOTALL)


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
    for page in PAGES:
        if page.exists():
            text = page.read_text()
            page.write_text(MARKERS.sub(lambda found: f"{found[1]}{page_table(content)}\n{found[2]}", text))
    return path


def page_table(content: Mapping[str, Any]) -> str:
    """The table with its machine, in Markdown."""
    about = content["machine"]
    commits = ", ".join(dict.fromkeys(one["commit"] for one in content["benchmarks"].values()))
    lines = [
        f"Measured on {content['date']} at commit {commits}: {about['cpu']}, {about['cores']} cores, "
        f"{about['memory']} memory, GPU: {about['gpu']}, {about['os']}, Python {about['python']}, "
        f"{about['vllm']}, {about['torch']}.",
        "",
        "| benchmark | what | figure | target | | |",
        "|---|---|---:|---:|---|---|",
    ]
    for name, one in content["benchmarks"].items():
        for row in (Row(**fields) for fields in one["rows"]):
            lines.append(f"| {name} | {row.name} | {_figure(row)} | {_target(row)} | {_met(row)} | {row.note} |")
            name = ""
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
