"""What is written from the code: docs/map.md, each module with the first sentence of its docstring, and the README's
table of settings. `python -m tests.map` writes both."""

import ast
import re
from pathlib import Path

from vbs.configuration.declared import table
from vbs.settings import BASE_DIR

PACKAGES = ("vbs", "models_registry", "batches")
PLACE = BASE_DIR / "docs" / "map.md"
README = BASE_DIR / "README.md"
HEAD = """# Map
Where everything is: each module with the first sentence that it says of itself. `python -m tests.map` writes this file,
and a test sees that it is true. How the parts work together is in [architecture.md](architecture.md).
"""


def modules() -> list[Path]:
    """By folder; without migrations, and without what only makes a folder a package."""
    found = [path for package in PACKAGES for path in (BASE_DIR / package).rglob("*.py")]
    kept = [path for path in found if path.name != "__init__.py" and not {"migrations", "shipped"} & {*path.parts}]
    return sorted(kept, key=lambda path: (PACKAGES.index(path.relative_to(BASE_DIR).parts[0]), path.parent, path))


def sentence(path: Path) -> str:
    """The first of its docstring, or nothing."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    found = re.match(r".+?[.!?](?=\s|$)", paragraph)
    return found.group() if found else paragraph


def written() -> str:
    text, folder = HEAD, None
    for path in modules():
        if path.parent != folder:
            folder = path.parent
            text += f"\n## {folder.relative_to(BASE_DIR)}\n| module | what it is |\n|---|---|\n"
        text += f"| {path.name} | {sentence(path).replace('|', chr(92) + '|')} |\n"
    return text


def readme() -> str:
    """With the table of settings as they are declared."""
    made = table()
    before, head, rest = README.read_text().partition(made.partition("\n")[0])
    assert head, "the README has no table of settings"
    return before + made + "\n" + rest.partition("\n\n")[2]


if __name__ == "__main__":
    PLACE.write_text(written())
    README.write_text(readme())
