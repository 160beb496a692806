"""The examples of the README, of the guides and of the help are run as they are written, one after the other, against a
running server. Only the Python of this environment, the server's address, a key and ids are put in."""

import os
import re
import subprocess
import sys

import pytest

from tests.documents import README, blocks, missing, typed
from tests.live import line
from vbs.pages import recipes
from vbs.settings import BASE_DIR

pytestmark = pytest.mark.slow
GUIDES = [README, *(BASE_DIR / "docs" / f"{name}.md" for name in ("from-openai", "batches"))]
# What is not run here, and why.
LEFT_OUT = (
    r"export ",  # the key is in the environment here
    r"make ",  # CI runs `make demo` and `make test`; the server of these tests is what `make up` starts
    r".* model add-demo",  # fetched by the demo of CI
    r".* model fetch",  # asks the hub; tests/models_registry/hub has one
    r".* /models/my-",  # a folder of the reader's
)


@pytest.fixture
def shell(vbs, operator, smollm2, tmp_path):
    """Runs the examples of one document."""
    for name in ("examples", "manage.py"):
        (tmp_path / name).symlink_to(BASE_DIR / name)
    return Shell(vbs, operator["Authorization"].split()[1], tmp_path)


class Shell:
    def __init__(self, vbs, key, folder):
        self.folder, self.key = folder, key
        self.environment = os.environ | vbs.stack.environment | {"KEY": key}
        self.address = vbs.stack.url.removeprefix("http://")
        self.newest = {}

    def filled(self, text):
        text = text.replace("sk-vbs-…", self.key).replace(".venv/bin/python", sys.executable)
        text = re.sub(r"(localhost|127\.0\.0\.1):4080", self.address, text)
        for name, found in self.newest.items():
            text = text.replace(f"{name}…", found)
        return text

    def sh(self, block):
        """Command by command, for one may need the id that the one before has told."""
        commands = [block] if "<<'EOF'" in block else typed(block)
        wanted = [one for one in commands if not any(re.match(pattern, one) for pattern in LEFT_OUT)]
        return "".join(self.run(["bash", "-c", self.filled(one)]) for one in wanted)

    def python(self, code):
        return self.run([sys.executable, "-c", self.filled(code)])

    def run(self, command):
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        for said in done.stdout.splitlines():
            assert not re.match(r"\{\s*\"error\": ?\{\"message\"", said), f"{command[-1]}\n{said}"
        for name, found in re.findall(r"\b((?:batch_|file-))([0-9a-f]{32})\b", done.stdout):
            self.newest[name] = name + found
        return done.stdout + done.stderr


@pytest.mark.parametrize("document", GUIDES, ids=lambda path: path.name)
def test_a_document(shell, document):
    said = ""
    for kind, block in blocks(document):
        if kind == "said":
            assert block.startswith("vbs is up") or not missing(block, said), said
        else:
            said = shell.sh(block) if kind == "sh" else shell.python(block)


def test_the_recipes_of_the_help(vbs, shell, smollm2):
    for recipe in recipes.recipes(vbs.stack.url, smollm2):
        if recipe.id == "client":
            assert "completed" in shell.python(recipe.code)
        elif recipe.id != "cancel":
            shell.sh(recipe.code)


def test_the_recipe_that_cancels(vbs, shell, smollm2):
    """The second of its lines is for a batch that has ended."""
    (recipe,) = [one for one in recipes.recipes(vbs.stack.url, smollm2) if one.id == "cancel"]
    batch = vbs.create([line(str(n), "slowly", "slow") for n in range(400)])
    vbs.wait(batch, until={"in_progress"})
    shell.newest["batch_"] = batch.id
    first, second = recipe.code.splitlines()
    shell.sh(first)
    assert vbs.wait(batch).status == "cancelled"
    shell.sh(second)
    assert shell.newest["batch_"] != batch.id
    vbs.client.batches.cancel(shell.newest["batch_"])
