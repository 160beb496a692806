"""Texts keep to docs/style.md where a machine can tell: none has a word or a phrase that it rules out.

Held to it are the documents, the templates, the scripts, and every text in the code that is no docstring.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.documents import DOCUMENTS
from vbs.settings import BASE_DIR

STYLE = BASE_DIR / "docs" / "style.md"
ABOUT_WORDS = {STYLE, BASE_DIR / "docs" / "map.md", BASE_DIR / "docs" / "STATUS.md"}  # they quote, or are for us alone
PACKAGES = ("vbs", "models_registry", "batches")
# Of the column «not» in docs/style.md: the words that have no second meaning in our texts.
RULED_OUT = (
    "spreadsheet", "prompt tokens", "backlog", "tenant", "cron", "warm up",
    "rejection", "live request",
    "tokens read", "tokens written",
)  # fmt: skip
# Phrases that had to be read twice, and what says the same at once.
INSTEAD = {
    r"runs now": "Running",
    r"(\d|\}\}|\{\}) waits?(?=[<\"]|$)": "3 waiting",
    r"ended last": "Recently finished",
    r"look (it|them) over": "Review model",
    r"hold (it|them) still": "Pause",
    r"no, leave it": "Cancel",
    r"what was done with it": "Activity",
    r"taken up\b": "Attempts",
    r"parts? needs? attention": "1 problem",
    r"what came of (it|them)": "Result",
    r"(by|in) turns": "alternating",
    r"tokens (in|out)(?=[<\"]| ?/|$)": "Input tokens, Output tokens",
    r"(is|are|be) had\b": "there is",
    r"lets? your shell know": "export it",
    r"read it(?=[<\"]|$)": "Continue",
    r"make it(?=[<\"]|$)": "Create key",
}
COMMAND = re.compile(r"`(\{\}|manage\.py) \w")  # in plain text a command stands in single quotes
MARKDOWN = ("vbs/openai/introduction.py", "models_registry/api/reference.py", "batches/api/reference.py")  # at /docs
ALLOWED = {
    ("docs/api.md", "spreadsheet"): "the program that shows rows, and computes formulas",
    ("docs/dependencies.md", "spreadsheet"): "the programs that write tables",
    ("CHANGELOG.md", "spreadsheet"): "the program that numbers the rows",
}


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """The texts in a module, with their lines; `{}` stands for what is put in."""
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            skipped |= {id(one.value) for one in node.body[:1] if isinstance(one, ast.Expr)}
        elif isinstance(node, ast.JoinedStr):
            skipped |= {id(one) for one in node.values}
            yield node.lineno, "".join(str(one.value) if isinstance(one, ast.Constant) else "{}" for one in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


@cache
def texts() -> list[tuple[str, int, str]]:
    return list(_texts())


def _texts() -> Iterator[tuple[str, int, str]]:
    """Every text with its file, from the repository's folder, and its line."""
    shown = [path for path in DOCUMENTS if path not in ABOUT_WORDS]
    shown += sorted((BASE_DIR / "templates").rglob("*.html")) + sorted((BASE_DIR / "static").glob("*.js"))
    for path in shown:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.lstrip().startswith("//"):  # a comment of a script
                yield str(path.relative_to(BASE_DIR)), number, line
    for package in PACKAGES:
        for path in sorted((BASE_DIR / package).rglob("*.py")):
            if "migrations" not in path.parts:
                name = str(path.relative_to(BASE_DIR))
                yield from ((name, number, text) for number, text in messages(path) if " " in text)


@pytest.mark.parametrize("word", RULED_OUT)
def test_a_word_that_the_table_rules_out(word):
    rows = [line.split("|") for line in STYLE.read_text().splitlines() if line.startswith("| **")]
    instead = next((row[1] for row in rows if re.search(rf"\b{word}\b", row[3])), "")
    assert instead, f"docs/style.md does not rule out {word!r}"
    pattern = re.compile(rf"\b{word}s?\b", re.IGNORECASE)
    found = [
        f"{name}:{number}" for name, number, text in texts() if pattern.search(text) and (name, word) not in ALLOWED
    ]
    assert not found, f"{word!r} is{instead.replace('*', '')}: {found}"


def test_phrases_that_had_to_be_read_twice():
    phrases = {re.compile(rf"(?<![\w-]){phrase}", re.IGNORECASE): words for phrase, words in INSTEAD.items()}
    found = [
        f"{name}:{number}: {match[0]!r}, say {words!r}"
        for name, number, text in texts()
        for phrase, words in phrases.items()
        if (match := phrase.search(text))
    ]
    assert not found, "\n".join(found)


def test_one_way_to_name_a_command():
    found = [
        f"{name}:{number}"
        for name, number, text in texts()
        if name.endswith(".py") and name not in MARKDOWN and COMMAND.search(text)
    ]
    assert not found, f"write 'manage.py …' in single quotes: {found}"


def test_what_is_allowed_is_there():
    there = {(name, word) for name, _, text in texts() for word in RULED_OUT if word in text.lower()}
    assert ALLOWED.keys() <= there, "an exception that is not needed goes"
