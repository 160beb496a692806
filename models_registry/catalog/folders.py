"""Reads a model's folder in Hugging Face's layout: is it complete, what is it for, how large is it?

Only small files and headers are read, so this takes milliseconds for any model.
"""

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)
PICKLES = ("*.bin", "*.pt")
NO_WEIGHTS = {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pt"}  # files that trainers leave there
LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")
MOST_HEADER = 100_000_000  # bytes; the limit of safetensors itself
MOST_JSON = 64 * 2**20  # bytes; the index of a model of a thousand files has a few million
MOST_README = 2**16  # bytes of it that are read
LFS_POINTER = b"version https://git-lfs"


LICENSE = re.compile(r"^(license|license_name):(?:[ \t]+|[ \t]*\n[ \t]*-[ \t]+)([^\s#][^\n#]*)", re.MULTILINE)
# vLLM reads a pickle with `weights_only=True`: torch takes tensors and plain values out of it, and refuses all else.
ONLY_TENSORS = "a form that can hold code, though the engine takes only tensors out of it"
ALLOW_PICKLE = "set allow_pickle (--allow-pickle)"

Shape = tuple[int, ...]


class ModelError(Exception):
    """An error about a model. The message says what was wrong, with the value, and what to do."""


class Taken(ModelError):
    """The name is taken."""


class Needed(ModelError):
    """It cannot be removed, because something needs it."""


@dataclass(frozen=True)
class ModelFacts:
    """What a folder says about its model. task: chat, completion, embedding or score. size_bytes: of the weights.
    context_length: in tokens, where it is known. license: as its README or config names it, or empty. own_code: it
    comes with code, which the engine runs only with trust_remote_code.
    """

    task: str
    size_bytes: int
    context_length: int | None
    license: str = ""
    own_code: bool = False


def examine(
    folder: Path, task: str | None = None, options: dict[str, Any] | None = None, allow_pickle: bool = False
) -> ModelFacts:
    """What the folder says. Raises ModelError for a folder that no engine can load, or whose weights are pickles only.

    task: guessed by default. options: the engine's, which may replace what is missing. allow_pickle: accept weights
    that are pickles.
    """
    options = options or {}
    content = config(folder)
    size = _weights(folder, allow_pickle)
    if options.get("load-format") == "pt" and not allow_pickle:
        raise ModelError(f"load-format pt reads pickles, {ONLY_TENSORS}: leave it out, or {ALLOW_PICKLE}")
    if "tokenizer" not in options and not any((folder / name).exists() for name in TOKENIZERS):
        raise ModelError(
            f"{folder} has no tokenizer (tokenizer.json, tokenizer.model …): fetch the model's other files"
        )
    return ModelFacts(
        task or _guess_task(folder, content, options),
        size,
        _context_length(folder, content, options),
        _license(folder, content),
        own_code(content),
    )


def own_code(content: dict[str, Any]) -> bool:
    """Does this config.json name Python files of the folder as the model's code?"""
    return bool(content.get("auto_map"))


def config(folder: Path) -> dict[str, Any]:
    """The model's config.json. Raises ModelError."""
    content = read_json(folder / "config.json")
    if content is None:
        raise ModelError(f"{folder} has no config.json: give the folder that the model's config.json is in")
    return content


def parameters(folder: Path) -> dict[str, int]:
    """How many values of each safetensors type, such as BF16, the weights have. Raises ModelError.

    Where there is an index, only its files count, because some folders have the same weights twice.
    """
    found = {path.name: path for path in folder.glob("*.safetensors")}
    index = read_json(folder / "model.safetensors.index.json") or {}
    counts = count(_tensors(found[name]) for name in _shards(folder, index, found) or found)
    if not counts:
        raise ModelError(f"{folder} has no *.safetensors, whose headers count the values: convert the weights")
    return counts


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        size = path.stat().st_size
        if not path.is_file() or size > MOST_JSON:
            raise ValueError(f"it is {size:,} bytes long" if path.is_file() else "it is not a file")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}. Fetch it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object: fetch it again")
    return content


def _weights(folder: Path, allow_pickle: bool) -> int:
    """Bytes of the weight files. Raises ModelError unless all are there, and complete by their headers."""
    found = {path.name: path for path in folder.glob("*.safetensors")}
    for path in found.values():
        _tensors(path)
    index = read_json(folder / "model.safetensors.index.json") or {}
    if not found and not index:
        found = {path.name: path for ending in PICKLES for path in folder.glob(ending) if path.name not in NO_WEIGHTS}
        if found and not allow_pickle:
            raise ModelError(
                f"{folder} has its weights as pickles only ({min(found)}), {ONLY_TENSORS}: "
                f"take a version with *.safetensors, or {ALLOW_PICKLE}"
            )
        index = read_json(folder / "pytorch_model.bin.index.json") or {}
    _shards(folder, index, found)
    if not found:
        raise ModelError(f"{folder} has no weights (*.safetensors): fetch the model's other files")
    return sum(path.stat().st_size for path in found.values())


def _shards(folder: Path, index: dict[str, Any], found: dict[str, Path]) -> set[str]:
    """The files that an index names. Raises ModelError unless all are there."""
    weight_map = index.get("weight_map")
    named = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
    if missing := sorted(named - found.keys()):
        raise ModelError(f"{folder} lacks {len(missing)} of its weight files, such as {missing[0]}: fetch them")
    return named


def shapes(folder: Path) -> dict[str, Shape]:
    """The shape of every tensor in the folder's *.safetensors. Raises ModelError."""
    return {name: shape for path in folder.glob("*.safetensors") for name, shape in shapes_of(path).items()}


def shapes_of(path: Path) -> dict[str, Shape]:
    return {name: shape for name, (_, shape) in _tensors(path).items()}


def _tensors(path: Path) -> dict[str, tuple[str, Shape]]:
    """Type and shape of each tensor in a file of weights."""
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        with path.open("rb") as file:
            return tensors(file.read, path.stat().st_size)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged or not complete ({error}): fetch it again") from error


def tensors(read: Callable[[int], bytes], size: int) -> dict[str, tuple[str, Shape]]:
    """Type and shape of each tensor, read from the beginning of a safetensors file of this size. Raises ValueError.

    Such a file has eight bytes of length, a JSON header, and exactly the bytes that the header describes. read: gives
    the next so many bytes.
    """
    found: dict[str, tuple[str, Shape]] = {}
    start = read(8)
    if LFS_POINTER.startswith(start) and start:
        raise ValueError("it is a Git LFS pointer, not the weights: run 'git lfs pull' in its folder")
    try:
        (length,) = struct.unpack("<Q", start)
        if length > min(MOST_HEADER, size - 8):
            raise ValueError(f"it has a header of {length} bytes in a file of {size}")
        header = json.loads(read(length))
        header.pop("__metadata__", None)
        if (expected := 8 + length + max((one["data_offsets"][1] for one in header.values()), default=0)) != size:
            raise ValueError(f"it has {size} bytes, but its header describes {expected}")
        for name, tensor in header.items():
            first, end = tensor["data_offsets"]
            shape = tuple(map(int, tensor["shape"]))
            if not 0 <= math.prod(shape) <= 2 * (end - first):  # the smallest values take half a byte
                raise ValueError(f"it has a tensor of {math.prod(shape)} values in {end - first} bytes")
            found[name] = (str(tensor["dtype"]), shape)
    except (TypeError, LookupError, AttributeError, RecursionError, struct.error) as error:
        raise ValueError(error) from error
    return found


def count(files: Iterable[dict[str, tuple[str, Shape]]]) -> dict[str, int]:
    """How many values of each type, such as BF16, the tensors of these files have together."""
    counts: Counter[str] = Counter()
    for file in files:
        for kind, shape in file.values():
            counts[kind] += math.prod(shape)
    return dict(counts)


def _guess_task(folder: Path, config: dict[str, Any], options: dict[str, Any]) -> str:
    named = config.get("architectures")
    architectures = [str(name) for name in named] if isinstance(named, list) else []
    if any(name.endswith("ForSequenceClassification") for name in architectures) and _labels(config) == 1:
        return "score"  # a cross-encoder
    if (folder / "modules.json").exists() or (folder / "sentence_bert_config.json").exists():
        return "embedding"  # sentence-transformers
    if any(name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for name in architectures):
        return "chat" if _has_chat_template(folder, options) else "completion"
    if any(name.endswith("Model") for name in architectures):  # the bare model, such as BertModel
        return "embedding"
    raise ModelError(
        f"the architectures {architectures} in {folder / 'config.json'} do not say what this model is for: "
        "give --task chat, completion, embedding or score"
    )


def _labels(config: dict[str, Any]) -> int:
    """How many labels a classifier has, as transformers reads it."""
    named = config.get("id2label")
    count = config.get("num_labels", 2)
    return len(named) if isinstance(named, dict) else count if isinstance(count, int) else 2


def _has_chat_template(folder: Path, options: dict[str, Any]) -> bool:
    if "chat-template" in options or any((folder / f"chat_template.{ending}").exists() for ending in ("jinja", "json")):
        return True
    return bool((read_json(folder / "tokenizer_config.json") or {}).get("chat_template"))


def _context_length(folder: Path, config: dict[str, Any], options: dict[str, Any]) -> int | None:
    """The context of a request in tokens: the model's own, or the shorter one that the engine is set to."""
    inner = config.get("text_config")
    places = [read_json(folder / "sentence_bert_config.json") or {}, config, inner if isinstance(inner, dict) else {}]
    names = ("max_seq_length", *LENGTHS)
    lengths = [place[name] for place in places for name in names if _is_length(place.get(name))]
    own = lengths[:1]
    if _is_length(limit := options.get("max-model-len")):
        own.append(limit)
    return min(own, default=None)


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and 0 < value < 2**31  # the database's column holds no more


def _license(folder: Path, config: dict[str, Any]) -> str:
    """The licence in the YAML head of the model's card, or else in its config. Only the line is read, without a YAML
    parser."""
    head = ""
    card = folder / "README.md"
    if card.is_file():  # not a pipe, which could be read without end
        with suppress(OSError), card.open("rb") as file:
            head = file.read(MOST_README).decode(errors="replace").replace("\r\n", "\n")
    head = head.removeprefix("---\n").partition("\n---")[0] if head.startswith("---\n") else ""
    named = {key: value.strip(" \t\"'") for key, value in LICENSE.findall(head)}
    found = named.get("license")
    if found in (None, "other"):
        found = named.get("license_name") or found or config.get("license")
    return found[:100] if isinstance(found, str) and found.isprintable() else ""
