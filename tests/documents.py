"""The documents, and the examples in them, for the tests that try these."""

import re
from collections.abc import Iterator
from pathlib import Path

from vbs.settings import BASE_DIR

README = BASE_DIR / "README.md"
DOCUMENTS = [
    *(BASE_DIR / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((BASE_DIR / "docs").glob("*.md")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = ("", "sh", "bash")
TYPED = (".venv/bin/python", "cat", "curl", "export", "make", "pip")


def blocks(document: Path) -> list[tuple[str, str]]:
    """Each block of code with what it is: `sh`, `python`, or `said`, which a program has written."""
    found = []
    for language, text in BLOCK.findall(document.read_text()):
        first = text.split(maxsplit=1)[0]
        found.append(("sh" if language in SHELL and first in TYPED else language or "said", text))
    return found


def typed(text: str) -> Iterator[str]:
    """The commands of a shell's text: joined where a line goes on, without comments and what stands in a heredoc."""
    text = re.sub(r"<<'EOF'\n.*?^EOF$", "", text, flags=re.MULTILINE | re.DOTALL).replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith(("#", "[")):
            yield line


def missing(shown: str, said: str) -> list[str]:
    """The lines of what a document shows that a program has not said; `…` stands for anything."""
    lines = [" ".join(line.split()) for line in said.splitlines()]
    patterns = [re.escape(" ".join(line.split())).replace("…", ".*") for line in shown.splitlines()]
    return [pattern for pattern in patterns if not any(re.fullmatch(pattern, line) for line in lines)]
