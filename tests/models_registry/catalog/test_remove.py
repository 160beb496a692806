"""Removing: who still needs a model, what its files take, and what nobody uses any more."""

import threading
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from models_registry import workloads
from models_registry.catalog import add, made_folders, partial_files, remove
from models_registry.catalog.folders import ModelError, Needed
from models_registry.gpu import operations
from models_registry.hub import downloads
from models_registry.models import Alias, Download, Model, Operation
from tests.models_registry.catalog.test_add import model_folder

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def data(tmp_path, settings):
    settings.VBS_DATA_DIR, settings.MODELS_DIR = tmp_path / "data", tmp_path / "data" / "models"
    settings.MODELS_DIR.mkdir(parents=True)
    return tmp_path / "data"


def copied(tmp_path, name="m"):
    """A model in a folder of ours, and the bytes and number of its files."""
    model = add.add(name, str(model_folder(tmp_path / f"source of {name}")), copy=True)
    files = [path for path in made_folders.path_of(name).rglob("*") if path.is_file()]
    return model, sum(path.stat().st_size for path in files), len(files)


def run(*words):
    out = StringIO()
    call_command("model", *words, stdout=out, stderr=out)
    return out.getvalue()


# Who needs it


def test_all_that_need_a_model_are_named(monkeypatch):
    model = add.add("m", "scripted:")
    Model.objects.create(name="a", kind="scripted", base=model)
    Alias.objects.create(name="@production", model=model)
    operation = operations.ask("load", model)
    monkeypatch.setattr(workloads, "needs", lambda names: [f"batch_1 waits for {', '.join(names)}"])
    needed = remove.needed_by(model)
    assert needed == [
        "adapter a",
        "alias @production",
        f"operation {operation.pk} (load, queued; cancel it first)",
        "batch_1 waits for m, @production",
    ]
    with pytest.raises(Needed) as error:
        remove.remove(model)
    assert all(reason in str(error.value) for reason in needed)
    assert Operation.objects.exists() and Model.objects.count() == 2


@pytest.mark.parametrize("state", ["queued", "running", "paused"])
def test_an_open_download_is_cancelled_first(state):
    model = Model.objects.create(name="m", hub_id="o/n", state="downloading")
    Download.objects.create(model=model, state=state)
    with pytest.raises(Needed, match=f"its download, which is {state} .cancel it first."):
        remove.remove(model)
    downloads.cancel(model)
    remove.remove(model)
    assert not Model.objects.exists() and not Download.objects.exists()


def test_what_has_ended_needs_nothing():
    model = add.add("m", "scripted:")
    Operation.objects.create(model=model, kind="load", state="failed")
    remove.remove(model)
    assert not Operation.objects.exists()


def test_a_crowd_of_operations_is_not_a_page_of_text():
    model = add.add("m", "scripted:")
    Operation.objects.bulk_create(Operation(model=model, kind="test", options={"seed": n}) for n in range(50))
    assert len(remove.needed_by(model)) == 21


def test_removed_twice():
    model = add.add("m", "scripted:")
    same = Model.objects.get()
    remove.remove(model)
    with pytest.raises(ModelError, match="has been removed already"):
        remove.remove(same)


@pytest.mark.django_db(transaction=True)
def test_who_comes_to_need_it_at_the_same_instant_is_seen_or_is_refused(monkeypatch):
    """An operation that is asked for while the model goes: it is never lost with the model."""
    model = add.add("m", "scripted:")
    looking, asked = threading.Event(), threading.Event()

    def slow(names):
        looking.set()
        asked.wait(0.5)  # the other one waits for our lock, so it cannot have come further
        return []

    said = []

    def ask():
        looking.wait(5)
        try:
            operations.ask("load", model)
            said.append("asked")
        except ModelError as error:
            said.append(str(error))
        finally:
            asked.set()
            connection.close()

    monkeypatch.setattr(workloads, "needs", slow)
    other = threading.Thread(target=ask)
    other.start()
    remove.remove(model)
    other.join(10)
    assert said == ["the model m is not registered any more"] and not Operation.objects.exists()


# Its files


def test_what_would_be_freed_and_is(tmp_path):
    model, size, files = copied(tmp_path)
    folder = made_folders.path_of("m")
    assert remove.preview(model) == remove.Preview(folder, size, files)
    remove.remove(model, files=True)
    assert not folder.exists()


def test_what_is_not_ours_frees_nothing(tmp_path):
    model = add.add("m", str(model_folder(tmp_path / "m")))
    assert remove.preview(model) == remove.NOTHING
    assert remove.preview(add.add("s", "scripted:")) == remove.NOTHING
    with pytest.raises(ModelError, match="leave out --files"):
        remove.remove(model, files=True)


def test_what_two_models_use_stays(tmp_path):
    model, *_ = copied(tmp_path)
    add.add("same", model.source)
    assert remove.preview(model) == remove.NOTHING
    with pytest.raises(ModelError, match="also the folder of same"):
        remove.remove(model, files=True)
    assert made_folders.path_of("m").exists() and Model.objects.count() == 2


def test_the_files_of_a_needed_model_stay(tmp_path):
    model, *_ = copied(tmp_path)
    Alias.objects.create(name="a", model=model)
    with pytest.raises(Needed):
        remove.remove(model, files=True)
    assert (made_folders.path_of("m") / "config.json").exists()


@pytest.mark.parametrize("files", [True, False])
def test_parts_of_a_download_that_failed_go_with_their_model(files):
    model = Model.objects.create(name="o/m", hub_id="o/n", state="failed")
    Download.objects.create(model=model, state="failed")
    came = partial_files.folder_of("o/m")
    came.mkdir(parents=True)
    (came / "x").write_bytes(b"x" * 1000)
    assert remove.preview(model) == remove.Preview(came, 1000, 1)
    remove.remove(model, files)
    assert not came.exists() and not Model.objects.exists()


def test_a_draft_has_no_files():
    model = Model.objects.create(name="m", hub_id="o/n", state="draft")
    assert remove.preview(model) == remove.NOTHING
    remove.remove(model, files=True)
    assert not Model.objects.exists()


# What nobody uses


@pytest.fixture
def cache(data):
    cache = data / "cache" / "demo" / "minilm"
    cache.mkdir(parents=True)
    (cache / "x").write_bytes(b"x" * 500)
    return cache


def test_only_what_we_made_and_nobody_uses_is_left_over(tmp_path, data, cache):
    copied(tmp_path, "kept")
    gone, size, files = copied(tmp_path, "gone")
    Model.objects.filter(pk=gone.pk).delete()
    inner, *_ = copied(tmp_path, "inner")
    Model.objects.filter(pk=inner.pk).update(source=f"{inner.source}/sub")
    soon, *_ = copied(tmp_path, "soon")
    Model.objects.filter(pk=soon.pk).update(source="", hub_id="o/n")
    model_folder(data / "models" / "by hand")
    (data / "models" / ".fetch" / "x").mkdir(parents=True)
    found = {one.folder: (one.bytes, one.files) for one in remove.leftovers()}
    assert found == {data / "models" / "gone": (size, files), cache: (500, 1)}


def test_cleanup_looks_asks_and_deletes(tmp_path, data, cache, monkeypatch):
    gone, *_ = copied(tmp_path, "gone")
    gone.delete()
    copied(tmp_path, "kept")
    folder = data / "models" / "gone"
    said = run("cleanup", "--dry-run")
    assert f"{folder}: " in said and f"{cache}: 500 bytes in 1 files" in said and "this would free" in said
    for answer in ("", "n", "no"):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert "nothing is deleted" in run("cleanup")
    assert folder.exists() and cache.exists()

    def nobody(question):
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    with pytest.raises(CommandError, match="--yes"):
        run("cleanup")
    assert "are free again" in run("cleanup", "--yes")
    assert not folder.exists() and not cache.exists() and made_folders.path_of("kept").exists()
    assert run("cleanup") == "there is nothing to clean up\n"


def test_what_has_come_to_be_used_stays(tmp_path):
    copied(tmp_path, "gone")
    Model.objects.all().delete()
    (left,) = remove.leftovers()
    add.add("new", str(left.folder))
    with pytest.raises(ModelError, match="is the folder of new by now"):
        remove.clean(left)
    assert left.folder.exists()


def test_a_folder_that_somebody_makes_just_now_stays(tmp_path):
    copied(tmp_path, "gone")
    Model.objects.all().delete()
    (left,) = remove.leftovers()
    with made_folders.lock(left.folder), pytest.raises(ModelError, match="another process"):
        remove.clean(left)
    assert left.folder.exists()


def test_the_command_shows_first_what_it_frees(tmp_path):
    files = copied(tmp_path)[2]
    said = run("remove", "m", "--files", "--dry-run")
    assert "m would be removed" in said and f"in {files} files" in said
    assert Model.objects.exists() and made_folders.path_of("m").exists()
    Alias.objects.create(name="a", model=Model.objects.get())
    assert "m is still needed: alias a" in run("remove", "m", "--dry-run")
    Alias.objects.all().delete()
    said = run("remove", "m", "--files").splitlines()
    assert said[0].startswith("frees ") and said[-1] == "m is removed"
    assert not made_folders.path_of("m").exists()
