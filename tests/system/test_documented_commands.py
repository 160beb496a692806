"""What the documents and the messages tell to type works when it is pasted: each command there is, takes these words,
and reads files that exist or that an example before it has made."""

import argparse
import importlib.util
import io
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.core.management import get_commands, load_command_class
from django.core.management.base import CommandError
from django.urls import resolve

from tests.documents import DOCUMENTS, README, TYPED, blocks, missing, typed
from vbs.management.commands import up
from vbs.pages import recipes
from vbs.settings import BASE_DIR

INLINE = re.compile(r"`((?:manage\.py|vbs|make|python -m) [^`\n]+)`")
NAMED = re.compile(r"(?:manage\.py|{PROGRAM}|{% program %}) ([a-z_]+)(?: ([a-z][a-z-]*(?:\|[a-z-]+)*))?")
MANAGE = (".venv/bin/python manage.py ", "manage.py ", "vbs ")
FILE = re.compile(r"[\w./-]+\.(?:jsonl|csv|json|txt)")
TARGETS = set(re.findall(r"^([a-z-]+):", (BASE_DIR / "Makefile").read_text(), re.MULTILINE))


def parser_of(name: str) -> argparse.ArgumentParser:
    assert name in get_commands(), f"there is no command {name!r}"
    return load_command_class(get_commands()[name], name).create_parser("manage.py", name)


def actions_of(parser: argparse.ArgumentParser) -> set[str]:
    found = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    return set(found[0].choices) if found else set()


class Session:
    """A shell in which examples follow one another. `made`: the files that they have made."""

    def __init__(self) -> None:
        self.made: set[str] = set()

    def check(self, line: str) -> None:
        for start in MANAGE:
            if line.startswith(start):
                return self._manage(shlex.split(line.removeprefix(start), comments=True))
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            assert set(words[1:]) <= TARGETS, f"make has no {words[1:]}"
        elif words[0] == "curl":
            self._curl(words)
        elif words[0] == "cat" and ">" in words:
            self.made.add(words[words.index(">") + 1])
        elif words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), f"there is no {words[2]}"
        else:
            assert words[0] in TYPED, f"who knows {words[0]!r}?"

    def _manage(self, words: list[str]) -> None:
        name, *rest = words
        parser = parser_of(name)
        if rest and "|" in rest[0]:
            assert set(rest[0].split("|")) <= actions_of(parser), f"{name} has no {rest[0]}"
            return
        if not rest or (rest[0] in actions_of(parser) and len(rest) == 1 and name == "model"):
            return  # it is named, not called
        try:
            given = vars(parser.parse_args([word.split("|")[0] for word in rest]))
        except (CommandError, SystemExit) as error:
            pytest.fail(f"manage.py {shlex.join(words)}: {error}")
        out = given.pop("out", None)
        for value in given.values():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, str | Path):
                    self.reads(str(one))
        if isinstance(out, str):
            self.made.add(out)

    def _curl(self, words: list[str]) -> None:
        (url,) = [word for word in words if re.match(r"(http://)?[\w.]+:\d+/", word)]
        resolve("/" + url.removeprefix("http://").partition("/")[2].partition("?")[0])
        for word in words:
            if "=@" in word:
                self.reads(word.partition("=@")[2])

    def reads(self, name: str) -> None:
        if FILE.fullmatch(name):
            assert name in self.made or (BASE_DIR / name).exists(), f"there is no file {name}, and no example makes it"

    def python(self, code: str) -> None:
        compile(code, "example", "exec")
        for name in re.findall(r"""open\("([^"]+)""", code):
            self.reads(name)


def plain(text: str) -> str:
    """An inline example as one would type it: without what may be left out, with a number where N stands for one."""
    text = re.sub(r"\s*\[[^]]*\]|\s*…", "", text.replace("\\|", "|"))
    return re.sub(r"\bN\b", "1", text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(BASE_DIR)))
def test_documents(document):
    session = Session()
    for kind, block in blocks(document):
        for line in typed(block) if kind == "sh" else ():
            session.check(line)
        if kind == "python":
            session.python(block)
    for line in INLINE.findall(document.read_text()):
        session.check(plain(line))


def test_recipes():
    session = Session()
    for recipe in recipes.recipes("http://127.0.0.1:4080", "smollm2-135m"):
        if recipe.id == "client":
            session.python(recipe.code)
            continue
        for line in typed(recipe.code):
            session.check(line)
    assert session.made == {"batch.jsonl", "reviews.csv"}


def of_the_readme():
    return [line for kind, block in blocks(README) if kind == "sh" for line in typed(block)]


def test_the_readme_is_looked_at():
    lines = of_the_readme()
    assert sum(line.startswith(".venv/bin/python manage.py ") for line in lines) >= 7
    assert {"make demo", "make test", "make up"} <= {line.partition("#")[0].strip() for line in lines}
    with pytest.raises(AssertionError, match=r"there is no file rows\.csv"):
        Session().check('manage.py make_batch --from rows.csv --prompt "{text}" --out batch.jsonl')
    with pytest.raises(pytest.fail.Exception, match="--nonsense"):
        Session().check("manage.py batch submit examples/demo_batch_10.jsonl --nonsense")


def test_commands_that_messages_name():
    found = 0
    for folder, files in (("vbs", "*.py"), ("batches", "*.py"), ("models_registry", "*.py"), ("templates", "*.html")):
        for path in (BASE_DIR / folder).rglob(files):
            for name, action in NAMED.findall(path.read_text()):
                actions = actions_of(parser_of(name))
                assert not actions or set(action.split("|")) - {""} <= actions, f"{path}: manage.py {name} {action}"
                found += 1
    assert found > 60


def test_the_server_greets_as_the_readme_shows(db):
    """What `make up` says begins the first block that is not typed."""
    said = io.StringIO()
    up.Command(stdout=said).greet(SimpleNamespace(url="http://127.0.0.1:4080", data=Path("data")))
    shown = next(block for kind, block in blocks(README) if kind == "said")
    assert shown.startswith("vbs is up") and not missing(shown, said.getvalue())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(BASE_DIR)))
def test_links_and_pictures_are_there(document):
    for path in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        assert path.startswith("https://") or (document.parent / path).exists(), path
