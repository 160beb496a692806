"""Chooses the files of a hub's repository that a model needs, by their names, sizes and checksums.

Weights are taken as safetensors; the same weights in other formats are left out. A file that is taken has a size, a
checksum, and a name that cannot lead out of the model's folder.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from models_registry.catalog import adapter_folders
from models_registry.catalog.folders import ALLOW_PICKLE, NO_WEIGHTS, ONLY_TENSORS, PICKLES, ModelError
from models_registry.catalog.made_folders import ORIGIN

MOST_FILES = 3000
MOST_PATH = 500  # characters
MOST_BYTES = 2**60
NAMED = 10  # files in an error
ADAPTER_PICKLES = ("adapter_model.bin", "adapter_model.pt")
INDEX, PICKLE_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
# Files beside the weights: config, tokenizer, chat template, and what people should read.
WITH_MODEL = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.spm", "*.vocab", "*.bpe", "README.md")
TERMS = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY)[^/.]*(\.(md|txt))?", re.IGNORECASE)
MODULE = re.compile(r"\d+_\w+/[^/]+")  # of sentence-transformers: 1_Pooling/config.json
SHARD = re.compile(r".+-\d+-of-\d+\.(safetensors|gguf)", re.IGNORECASE)
SUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. sha256: of a file in Git LFS. blob: git's own checksum of any other."""

    path: str
    size: int
    sha256: str | None = None
    blob: str | None = None

    @property
    def sum(self) -> str:
        return self.sha256 or self.blob or ""

    def as_json(self) -> dict[str, Any]:
        return {"path": self.path, "size": self.size, "sha256": self.sha256, "blob": self.blob}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "HubFile":
        return cls(content["path"], content["size"], content["sha256"], content["blob"])


def choose(
    files: Sequence[HubFile], repository: str, wanted: str = "", allow_pickle: bool = False, own_code: bool = False
) -> list[HubFile]:
    """The files to fetch, by path. Raises ModelError when they contain no model that can be served.

    wanted: the one .gguf file to take. own_code: take the Python files too.
    """
    by_path = {file.path: file for file in files}
    ggufs = sorted(path for path in by_path if path.lower().endswith(".gguf"))
    if wanted:
        if wanted not in by_path:
            raise ModelError(f"{repository} has no file {wanted!r}: {_those(ggufs) or 'it has no .gguf files at all'}")
        return _checked([by_path[wanted]], repository)
    if _is_adapter(set(by_path)):
        raise ModelError(f"{repository} is a LoRA adapter, not a whole model: add it with its base (--base)")
    weights = _weights(set(by_path), repository, ggufs, allow_pickle)
    if "config.json" not in by_path:
        raise ModelError(f"{repository} has no config.json, so vLLM cannot serve it: choose another model")
    taken = [file for path, file in by_path.items() if path in weights or _beside(path, weights, own_code)]
    return _checked(sorted(taken, key=lambda file: file.path), repository)


def choose_adapter(files: Sequence[HubFile], repository: str) -> list[HubFile]:
    """The files of a LoRA adapter, by path, without tokenizer and template, which are the base's. Raises ModelError."""
    by_path = {file.path: file for file in files}
    if adapter_folders.CONFIG not in by_path:
        raise ModelError(
            f"{repository} has no {adapter_folders.CONFIG}, so it is not a LoRA adapter: leave out the base"
        )
    if adapter_folders.WEIGHTS not in by_path:
        pickles = sorted(path for path in by_path if _like(path, ADAPTER_PICKLES))
        why = f" but a pickle ({pickles[0]}), which is not taken for an adapter" if pickles else ""
        raise ModelError(f"{repository} has no {adapter_folders.WEIGHTS}{why}: take a version of the adapter that has")
    taken = {adapter_folders.CONFIG, adapter_folders.WEIGHTS, "README.md"}
    return _checked(
        [file for path, file in sorted(by_path.items()) if path in taken or TERMS.fullmatch(path)], repository
    )


def _is_adapter(paths: set[str]) -> bool:
    """Is it an adapter? Some trainers leave the base's config.json beside one; then the weights decide."""
    weights = {path for path in paths - NO_WEIGHTS if "/" not in path and _like(path, ("*.safetensors", *PICKLES))}
    whole = {path for path in weights if not path.startswith("adapter_model.")}
    return adapter_folders.CONFIG in paths and not ("config.json" in paths and whole)


def _weights(paths: set[str], repository: str, ggufs: list[str], allow_pickle: bool) -> set[str]:
    """The weights of the model itself and of its modules, each once."""
    safe = {path for path in paths if path.endswith(".safetensors") and "/" not in path}
    modules = {path for path in paths if MODULE.fullmatch(path)}
    if safe:
        return _once(safe, indexed=INDEX in paths) | {path for path in modules if path.endswith(".safetensors")}
    pickles = {path for path in paths - NO_WEIGHTS if "/" not in path and _like(path, PICKLES)}
    if pickles and allow_pickle:
        preferred = {path for path in pickles if path.startswith("pytorch_model")}
        return (preferred or pickles) | {path for path in modules if _like(path, ("*.safetensors", *PICKLES))}
    if ggufs:
        raise ModelError(f"{repository} has only .gguf files: name the one to take (--file). {_those(ggufs)}")
    if pickles:
        raise ModelError(
            f"{repository} has its weights as pickles only ({min(pickles)}), {ONLY_TENSORS}: "
            f"take a version with *.safetensors, or {ALLOW_PICKLE}"
        )
    raise ModelError(f"{repository} has no weights (*.safetensors, or a .gguf file): choose another repository")


def _once(safe: set[str], indexed: bool) -> set[str]:
    """The weights without second copies: a single file beside shards, Mistral's layout, another precision."""
    if len(safe) == 1:
        return safe
    named = {path for path in safe if not path.startswith("consolidated")} or safe
    shards = {path for path in named if SHARD.fullmatch(path)}
    if indexed and shards:
        return shards
    return {"model.safetensors"} if "model.safetensors" in named else named


def _beside(path: str, weights: set[str], own_code: bool) -> bool:
    """Does a model need this file beside its weights?"""
    if path == ORIGIN:  # another vbs has made it
        return False
    if path.endswith(".index.json"):
        with_pickles = any(_like(weight, PICKLES) for weight in weights)
        return path == (PICKLE_INDEX if with_pickles else INDEX)
    if path.endswith(".py"):
        return own_code
    if path.endswith(".jinja") or (MODULE.fullmatch(path) and path.endswith((".json", ".txt", ".model"))):
        return True
    return "/" not in path and (_like(path, WITH_MODEL) or TERMS.fullmatch(path) is not None)


def _like(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def _those(ggufs: list[str]) -> str:
    whole = [path for path in ggufs if not SHARD.fullmatch(path)]
    more = f" and {len(whole) - NAMED} more" if len(whole) > NAMED else ""
    return f"It has {', '.join(map(repr, whole[:NAMED]))}{more}" if whole else ""


def _checked(files: list[HubFile], repository: str) -> list[HubFile]:
    if len(files) > MOST_FILES:
        raise ModelError(f"{repository} has {len(files):,} files: a model has at most {MOST_FILES:,}")
    for file in files:
        check_path(file.path, repository)
        if not 0 <= file.size <= MOST_BYTES or not SUM.fullmatch(file.sum):
            raise ModelError(
                f"the hub does not give size and checksum of {file.path} in {repository}: choose another repository"
            )
    if sum(file.size for file in files) > MOST_BYTES:
        raise ModelError(f"the hub says that {repository} is larger than any model: choose another one")
    return files


def check_path(path: str, repository: str) -> None:
    """Raises ModelError for a path that could lead out of a folder, or that a file system cannot hold."""
    parts = path.split("/")
    good = path.isprintable() and "\\" not in path and len(path) <= MOST_PATH and path != ORIGIN
    if not good or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        raise ModelError(f"{repository} has a file {path[:100]!r}, and a model cannot have a file of that name")
