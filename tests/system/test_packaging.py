"""What is installed is whole: a wheel runs outside the checkout, and every import is of something declared."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import httpx
import pytest

from vbs.__main__ import OURS
from vbs.run import leftovers, postgres
from vbs.run.stack import free_port
from vbs.settings import BASE_DIR

PROJECT = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())["project"]
DEPENDENCIES, EXTRAS = PROJECT["dependencies"], PROJECT["optional-dependencies"]


def named(requirements: list[str]) -> set[str]:
    """Their names; psycopg[pool] is psycopg and psycopg-pool, as distributions with such extras are called."""
    found = set()
    for one in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[(.*?)\])?", one).groups()  # type: ignore[union-attr]
        found |= {normal(name)} | {normal(f"{name}-{extra}") for extra in (extras or "").split(",") if extra}
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(folder: Path) -> dict[str, Path]:
    """The packages of others that are imported anywhere in it, also within functions; and one place for each."""
    found: dict[str, Path] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules = [node.module]
            else:
                continue
            found |= {module.partition(".")[0]: path.relative_to(BASE_DIR) for module in modules}
    ours = OURS | {"tests", "benchmarks"}
    return {name: path for name, path in found.items() if name not in ours | sys.stdlib_module_names}


@pytest.mark.parametrize("folder", [*sorted(OURS), "benchmarks", "tests"])
@pytest.mark.parametrize("edition", ["cpu", "gpu"])
def test_what_is_imported_is_declared(folder: str, edition: str) -> None:
    declared = named(DEPENDENCIES + EXTRAS[edition])
    if folder not in OURS:
        declared |= named(EXTRAS["dev"])
    distributions = packages_distributions()
    missing = {
        name: str(path)
        for name, path in imported(BASE_DIR / folder).items()
        if declared.isdisjoint(map(normal, [name, *distributions.get(name, [])]))
    }
    assert not missing, "each needs a line in pyproject.toml"


def test_every_constraint_is_of_one_version_and_every_requirement_has_one() -> None:
    lines = (BASE_DIR / "constraints.txt").read_text().splitlines()[1:]
    names = [normal(one.partition("==")[0]) for one in lines]
    assert len(names) == len(set(names)) and all("==" in one for one in lines)
    pinned = {normal(one.partition("==")[0]) for one in DEPENDENCIES + EXTRAS["cpu"] + EXTRAS["dev"] if "==" in one}
    wanted = {one.partition("[")[0] for one in DEPENDENCIES + EXTRAS["cpu"] + EXTRAS["dev"]}
    assert named(sorted(wanted)) - pinned <= set(names)


def test_a_python_without_it_says_what_to_do(tmp_path: Path) -> None:
    """As somebody who has just cloned it may try."""
    words = [sys.executable, "-S", "-E", str(BASE_DIR / "manage.py"), "status"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "has no package django" in done.stderr and "'make setup'" in done.stderr and sys.executable in done.stderr


# A wheel, in an environment of its own


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs of an environment are that has the wheel, and everything else from ours."""
    place = tmp_path_factory.mktemp("wheel")
    away = shutil.ignore_patterns(".*", "data", "build", "*.egg-info", "__pycache__", "screenshots")
    shutil.copytree(BASE_DIR, place / "source", ignore=away)  # or the build leaves its folders there
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(place), str(place / "source")]
    subprocess.run(build, check=True, timeout=300)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "venv")], check=True, timeout=60)
    (wheel,) = place.glob("*.whl")
    python = place / "venv" / "bin" / "python"
    into = [*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(into, check=True, timeout=300)
    (packages,) = (place / "venv" / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # those of our own environment
    return python.parent


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """Not within the checkout; PostgreSQL, which is not root, passes through."""
    folder = Path(tempfile.mkdtemp(prefix="vbs-in-"))
    folder.chmod(0o711)
    yield folder
    data = folder / "data"
    leftovers.end(data, leftovers.find(data), patience=0)
    postgres.stop(data)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_wheel_has_every_module_template_and_document(installed: Path) -> None:
    (packages,) = (installed.parent / "lib").glob("python*/site-packages")
    ours = [path for name in OURS for path in (BASE_DIR / name).rglob("*.py")]
    there = {path.relative_to(BASE_DIR): packages / path.relative_to(BASE_DIR) for path in ours}
    for folder in ("templates", "static", "docs", "examples"):
        for path in (BASE_DIR / folder).rglob("*"):
            if path.is_file() and path.name != ".gitkeep" and path.parent.name != "screenshots":
                there[path] = packages / "vbs" / "shipped" / path.relative_to(BASE_DIR)
    assert [str(path) for path, copy in there.items() if not copy.is_file()] == []


@pytest.mark.slow
def test_a_wheel_runs_outside_the_checkout(installed: Path, elsewhere: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VBS_", "PYTHON", "DJANGO_"))}
    environment = kept | {"VBS_PORT": str(free_port()), "DATABASE_URL": ""}
    common = {"cwd": elsewhere, "env": environment, "text": True}

    def vbs(*words: str, seconds: float = 0) -> str:
        """What it says; until then it may fail, as `status` does while workers start."""
        end = time.monotonic() + seconds
        while True:
            done = subprocess.run([installed / "vbs", *words], capture_output=True, timeout=120, **common)  # type: ignore[call-overload]
            if done.returncode == 0:
                return str(done.stdout)
            assert time.monotonic() < end, done.stderr

    assert "make_batch" in vbs("help")
    server = subprocess.Popen([installed / "vbs", "up"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **common)  # type: ignore[call-overload]
    try:
        said = ""
        while "API key" not in said:
            line = server.stdout.readline()
            assert line, said
            said += line
        assert (elsewhere / "data" / "postgres").is_dir()
        with httpx.Client(base_url=f"http://127.0.0.1:{environment['VBS_PORT']}", follow_redirects=True) as client:
            look_around(client, vbs("create_user", "root", "--role", "admin"))
        assert "No migrations to apply" in vbs("migrate")
        assert json.loads(vbs("model", "list", "--json")) == []
        assert f"127.0.0.1:{environment['VBS_PORT']}" in vbs("status", seconds=60)
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)
    assert not leftovers.find(elsewhere / "data")


def look_around(client: httpx.Client, said: str) -> None:
    """The pages, their files, the documents, the admin and the API's description."""
    password = said.split()[-1]
    page = client.get("/login")
    token = client.cookies["csrftoken"]
    form = {"username": "root", "password": password, "csrfmiddlewaretoken": token}
    page = client.post("/login", data=form, headers={"Referer": str(page.url)})
    assert page.status_code == 200 and "Sign out" in page.text
    files = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)
    addresses = ["/queue/", "/batches/", "/models/", "/system/", "/help/", "/help/api", "/docs", "/admin/", *files]
    assert files and {one: client.get(one).status_code for one in addresses} == dict.fromkeys(addresses, 200)
    assert "How it stays alive" in client.get("/help/start").text and "<h1" in client.get("/help/changelog").text
    models = client.get("/models/").text
    assert "<pre>vbs model add-demo</pre>" in models and "manage.py" not in models
