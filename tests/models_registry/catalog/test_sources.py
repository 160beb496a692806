"""Where models may come from: what somebody without a shell may name, and what the settings allow anybody."""

import json
import os

import pytest

from models_registry.catalog import add as importer
from models_registry.catalog.folders import ModelError
from models_registry.models import Model
from tests.models_registry.catalog.test_add import model_folder, safetensors
from vbs.checks import model_roots_are_folders

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def root(tmp_path, settings):
    """A root of models; outside of it is what nobody on the network may name."""
    settings.MODELS_DIR = tmp_path / "data" / "models"
    settings.MODELS_DIR.mkdir(parents=True)
    root = tmp_path / "root"
    root.mkdir()
    settings.VBS_MODEL_ROOTS = [str(root)]
    return root


def add(path, **more):
    return importer.add("m", str(path), on_server=True, **more)


def refused(path, words, **more):
    with pytest.raises(ModelError, match=words) as error:
        importer.add("m", str(path), **{"on_server": True} | more)
    assert not Model.objects.exists()
    return str(error.value)


def test_below_a_root_or_among_our_own(root, settings):
    assert add(model_folder(root / "deep" / "m")).source == str(root / "deep" / "m")
    ours = model_folder(settings.MODELS_DIR / "other")
    assert importer.add("other", str(ours), on_server=True).source == str(ours)


@pytest.mark.parametrize("on_server", [True, False])
def test_outside_is_refused_for_everybody_where_roots_are_set(tmp_path, on_server):
    said = refused(model_folder(tmp_path / "m"), "put it below .*VBS_MODEL_ROOTS", on_server=on_server)
    assert str(tmp_path / "m") in said


def test_without_roots_the_command_line_may_name_any_folder_and_the_network_only_ours(tmp_path, settings):
    settings.VBS_MODEL_ROOTS = []
    folder = model_folder(tmp_path / "m")
    refused(folder, "not in a folder that models may come from")
    assert importer.add("m", str(folder)).source == str(folder)


def test_what_is_not_there_and_what_is_outside_sound_alike(tmp_path):
    for path in ("/etc/shadow", "/no/such/thing", tmp_path / "nothing"):
        refused(path, "not in a folder that models may come from")


def test_a_link_counts_as_what_it_points_to(root, tmp_path):
    outside = model_folder(tmp_path / "outside")
    (root / "link").symlink_to(outside)
    refused(root / "link", "not in a folder")
    refused(root / "link" / ".." / "outside", "not in a folder")
    refused(f"{root}/../outside", "not in a folder")
    (root / "round").symlink_to(root / "round")
    refused(root / "round", "round")
    inside = model_folder(root / "real")
    (root / "inner").symlink_to(inside)
    assert add(root / "inner").source == str(inside), "what was checked is what is used"


def test_a_file_in_the_folder_that_points_out(root, tmp_path):
    (tmp_path / "secret.json").write_text(json.dumps({"chat_template": "secret"}))
    folder = model_folder(root / "m", tokenizer_config__json=None)
    (folder / "tokenizer_config.json").symlink_to(tmp_path / "secret.json")
    refused(folder, r"tokenizer_config\.json is not in a folder")


def test_what_we_have_fetched_for_a_demo_model_is_no_strangers(tmp_path, settings):
    settings.VBS_DATA_DIR = tmp_path / "data"
    folder = model_folder(settings.VBS_DATA_DIR / "cache" / "demo" / "m")
    refused(folder, "not in a folder")
    assert importer.add("m", str(folder)).source == str(folder)


@pytest.mark.parametrize("given", ["models", "", "/no/such/folder", "~/models"])
def test_roots_that_are_none_stop_the_server(root, settings, given):
    assert model_roots_are_folders() == []
    settings.VBS_MODEL_ROOTS = [str(root), given]
    (error,) = model_roots_are_folders()
    assert error.id == "vbs.E005" and repr(given) in error.msg and "absolute" in error.hint


def test_a_root_that_is_a_link_itself(root, tmp_path, settings):
    (tmp_path / "named").symlink_to(root)
    settings.VBS_MODEL_ROOTS = [str(tmp_path / "named")]
    model_folder(root / "m")
    assert add(tmp_path / "named" / "m").source == str(tmp_path / "named" / "m")


def test_what_is_half_made_is_no_model(settings):
    for place in (".import", ".fetch"):
        refused(model_folder(settings.MODELS_DIR / place / "m"), "not in a folder")


@pytest.mark.parametrize("path", ["models/m", "~/m", "~nobody/m", "a\0b", "."])
def test_a_path_from_the_network_is_absolute(path):
    refused(path, "not an absolute path|NUL")


def test_an_adapter_is_held_to_the_same(root, tmp_path):
    base = Model.objects.create(name="base", kind="scripted")
    (tmp_path / "adapter").mkdir()
    with pytest.raises(ModelError, match="not in a folder"):
        importer.add("a", str(tmp_path / "adapter"), base=base, on_server=True)
    assert Model.objects.count() == 1


def test_servers(settings):
    for url in ("http://127.0.0.1:8000/v1", "http://[::ffff:10.0.0.1]/v1", "http://169.254.169.254/v1"):
        refused(url, "not a public address")
    assert importer.add("own", "http://127.0.0.1:8000/v1").kind == "remote", "whoever has a shell may"
    settings.VBS_PRIVATE_URLS = True
    assert add("http://127.0.0.1:8000/v1").kind == "remote"


# Files that are no files, or too much


def test_what_could_be_read_for_ever(root):
    folder = model_folder(root / "m", config__json=None)
    os.mkfifo(folder / "config.json")
    refused(folder, "is not a file")
    (folder / "config.json").unlink()
    with (folder / "config.json").open("wb") as file:
        file.truncate(2**30)
    refused(folder, "1,073,741,824 bytes long")


def test_a_pipe_for_weights_and_one_for_a_card(root):
    folder = model_folder(root / "m", model__safetensors=None)
    os.mkfifo(folder / "model.safetensors")
    refused(folder, "damaged or not complete .it is not a file")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(safetensors())
    os.mkfifo(folder / "README.md")
    assert add(folder).license == ""


def test_json_that_is_too_deep(root):
    refused(model_folder(root / "m", config__json=b'{"a":' * 100_000), "cannot be read")


# What is said of a model


@pytest.mark.parametrize(
    ("files", "license"),
    [
        ({"README.md": b"---\nlanguage: en\nlicense: apache-2.0\n---\n# A model"}, "apache-2.0"),
        ({"README.md": b"---\r\nlicense: 'mit'  \r\n---\r\n"}, "mit"),
        ({"README.md": b"---\nlicense: other\nlicense_name: gemma\n---\n"}, "gemma"),
        ({"README.md": b"---\nlicense:\n- mit\n- x\n---\n"}, "mit"),
        ({"README.md": b"---\nlicense:\nlanguage: en\n---\n"}, ""),
        ({"README.md": b"# A model\nlicense: mit\n"}, ""),
        ({"README.md": b"---\nx: y\n---\nlicense: mit\n"}, ""),
        ({"README.md": b"---\nlicense: \xff\x1b[31m\n---\n"}, ""),
        ({"README.md": b"---\nlicense: " + b"x" * 500 + b"\n---\n"}, "x" * 100),
        ({"config.json": {"architectures": ["LlamaForCausalLM"], "license": "cc0"}}, "cc0"),
        ({"config.json": {"architectures": ["LlamaForCausalLM"], "license": {"a": 1}}}, ""),
    ],
)
def test_the_licence(root, files, license):
    assert add(model_folder(root / "m", **files)).license == license


def test_a_given_licence_wins(root):
    folder = model_folder(root / "m", **{"README.md": b"---\nlicense: mit\n---\n"})
    assert add(folder, license="ours").license == "ours"


@pytest.mark.parametrize(
    "about", [{"license": "x" * 101}, {"license": "a\nb"}, {"notes": "a\0"}, {"notes": "x" * 20_001}]
)
def test_what_cannot_be_said_of_a_model(about):
    with pytest.raises(ModelError, match=r"licence|notes"):
        importer.add("m", "scripted:", **about)


@pytest.mark.parametrize("name", ["trust_remote_code", "allow_pickle"])
def test_what_runs_code_is_only_for_files_that_are_here(name):
    for source in ("scripted:", "http://8.8.8.8/v1"):
        with pytest.raises(ModelError, match=f"{name} is for a model whose files are here"):
            importer.add("m", source, **{name: True})
    assert not Model.objects.exists()


@pytest.mark.parametrize("name", ["org/load", "m/fit", "a/b/measurements", "m/plan"])
def test_a_name_that_would_be_a_route(name):
    with pytest.raises(ModelError, match="the API's own addresses end in"):
        importer.add(name, "scripted:")


@pytest.mark.parametrize("name", ["load", "org/loads", "fit/m", "org/my-test"])
def test_a_name_that_only_looks_like_one(name):
    assert importer.add(name, "scripted:").name == name
