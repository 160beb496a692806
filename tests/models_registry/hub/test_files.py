"""Which files of a repository are taken, and what is refused."""

import pytest

from models_registry.catalog.folders import ModelError
from models_registry.hub import files as hub_files
from models_registry.hub.files import HubFile

SUM = "0" * 40
CORE = ["config.json", "tokenizer.json"]


def choose(*paths, **more):
    files = [HubFile(path, 1, blob=SUM) for path in paths]
    return {file.path for file in hub_files.choose(files, "org/m", **more)}


def refused(words, *paths, **more):
    with pytest.raises(ModelError, match=words) as error:
        choose(*paths, **more)
    return str(error.value)


@pytest.mark.parametrize(
    ("paths", "left"),
    [
        (["model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json"], {*range(1, 3)}),
        (["model.safetensors", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "model.onnx"], {*range(1, 5)}),
        (["model.safetensors", "onnx/model.onnx", "openvino/openvino_model.bin", "original/params.json"], {1, 2, 3}),
        (["model.safetensors", "original/consolidated.00.pth", "metal/model.bin", "runs/events"], {1, 2, 3}),
        (["model.safetensors", "README.md", "LICENSE", "LICENSE.txt", "USE_POLICY.md", "picture.png"], {5}),
        (["model.safetensors", "chat_template.jinja", "additional_chat_templates/tool.jinja"], set()),
        (["model.safetensors", "tokenizer.model", "merges.txt", "vocab.json", "generation_config.json"], set()),
        (["model.safetensors", "modules.json", "1_Pooling/config.json", "2_Dense/model.safetensors"], set()),
        (["model.safetensors", "2_Dense/pytorch_model.bin", "2_Dense/config.json"], {1}),
        (["model.safetensors", "modeling_x.py", ".gitattributes", "training_args.bin"], {1, 2, 3}),
        (["model.safetensors", "model.fp16.safetensors", "consolidated.safetensors"], {1, 2}),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], set()),
        (
            [
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "consolidated-00001-of-00001.safetensors",
                "model.safetensors",
            ],
            {3, 4},
        ),
        (["weights.safetensors"], set()),
        (["model.safetensors", "model-q4.gguf"], {1}),
    ],
)
def test_each_weight_once_and_what_belongs_to_it(paths, left):
    assert choose(*CORE, *paths) == {*CORE, *(path for at, path in enumerate(paths) if at not in left)}


def test_code_only_when_it_is_trusted():
    assert "deep/modeling.py" in choose(*CORE, "model.safetensors", "deep/modeling.py", own_code=True)


def test_pickles_only_when_they_are_allowed():
    bins = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]
    said = refused("pickles only", *CORE, *bins, "training_args.bin")
    assert "allow-pickle" in said
    assert choose(*CORE, *bins, "training_args.bin", "other.bin", allow_pickle=True) == {*CORE, *bins}
    assert choose(*CORE, "model.pt", allow_pickle=True) == {*CORE, "model.pt"}


def test_safetensors_are_taken_even_where_pickles_are_allowed():
    assert choose(*CORE, "model.safetensors", "pytorch_model.bin", allow_pickle=True) == {*CORE, "model.safetensors"}


def test_one_gguf_file_and_nothing_else():
    assert choose("a-q4.gguf", "a-q8.gguf", "README.md", wanted="a-q8.gguf") == {"a-q8.gguf"}
    said = refused("name the one to take", "a-q4.gguf", "b/a-q8.gguf", "README.md")
    assert "'a-q4.gguf', 'b/a-q8.gguf'" in said
    assert "'a-q4.gguf'" in refused("no file 'other.gguf'", "a-q4.gguf", wanted="other.gguf")
    assert "and 5 more" in refused("name the one to take", *(f"a-q{n}.gguf" for n in range(15)))


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["config.json"], "no weights"),
        (["model.safetensors"], "no config.json"),
        (["adapter_config.json", "adapter_model.safetensors"], "LoRA adapter"),
        ([], "no weights"),
    ],
)
def test_no_model(paths, words):
    refused(words, *paths)


@pytest.mark.parametrize(
    "path",
    [
        "../up.jinja",
        "1_Pooling/../x.jinja",
        "/etc/x.jinja",
        "a//b.jinja",
        "./b.jinja",
        "nul\0.json",
        "line\n.json",
        "back\\slash.json",
        "x" * 300 + ".json",
        "a/" * 300 + "x.jinja",
        "a/../../x.jinja",
    ],
)
def test_names_that_lead_elsewhere(path):
    said = refused("cannot have a file of that name", *CORE, "model.safetensors", path)
    assert "\0" not in said
    assert "\n" not in said


def test_our_own_mark_cannot_come_from_a_hub():
    assert choose(*CORE, "model.safetensors", hub_files.ORIGIN) == {*CORE, "model.safetensors"}
    refused("cannot have a file", *CORE, "model.safetensors", hub_files.ORIGIN, wanted=hub_files.ORIGIN)


@pytest.mark.parametrize(
    "file",
    [
        HubFile("model.safetensors", -1, sha256="0" * 64),
        HubFile("model.safetensors", 5),
        HubFile("model.safetensors", 5, sha256="../../../etc/passwd"),
        HubFile("model.safetensors", 2**61, sha256="0" * 64),
    ],
)
def test_what_cannot_be_checked_is_not_fetched(file):
    with pytest.raises(ModelError, match="does not give size and checksum"):
        hub_files.choose([HubFile("config.json", 1, blob=SUM), file], "org/m")


def test_too_many_files():
    refused("at most", *CORE, "model.safetensors", *(f"{n}.json" for n in range(hub_files.MOST_FILES)))
