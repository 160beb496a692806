"""Reads a LoRA adapter's folder as PEFT writes it: can vLLM serve it, and is it made for that base?

Only its config and headers are read. vLLM refuses some adapters (with DoRA, biases, whole modules, or an initialisation
that changes the base) at the first request of a batch; here they are refused before anything runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models_registry.catalog import folders
from models_registry.catalog.folders import ModelError, Shape
from models_registry.engine.options import LORA_RANKS

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ENDS = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B")
CHANGED_BASE = ("pissa", "olora", "loftq", "corda", "eva")  # initialisations whose base is not the published one


@dataclass(frozen=True)
class AdapterFacts:
    """What the folder says about an adapter. rank: the largest of its matrices. size_bytes: of its weights."""

    rank: int
    size_bytes: int


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def examine(folder: Path, base: Path | None) -> AdapterFacts:
    """Raises ModelError for an adapter that no engine can serve, or that is made for another base than `base`."""
    config = folders.read_json(folder / CONFIG)
    if config is None:
        raise ModelError(f"{folder} has no {CONFIG}: give the folder that PEFT saved the adapter in")
    _check(folder, config)
    path = folder / WEIGHTS
    if not path.exists():
        raise ModelError(f"{folder} has no {WEIGHTS}: save the adapter as safetensors")
    shapes = folders.shapes_of(path)
    ranks = [min(shape) for shape in shapes.values() if len(shape) == 2]
    if not shapes or len(ranks) < len(shapes) or not all(name.endswith(ENDS) for name in shapes):
        odd = next((name for name in shapes if not name.endswith(ENDS)), "nothing")
        raise ModelError(f"{path} has {odd} where only pairs of LoRA matrices can be: vLLM would refuse it")
    if max(ranks) > LORA_RANKS[-1]:
        raise ModelError(f"the adapter's rank is {max(ranks)}: an engine takes at most {LORA_RANKS[-1]}")
    if base:
        _check_base(folder, shapes, base)
    return AdapterFacts(max(ranks), path.stat().st_size)


def _check(folder: Path, config: dict[str, Any]) -> None:
    kind, start = config.get("peft_type"), str(config.get("init_lora_weights", True)).lower()
    if kind != "LORA":
        raise ModelError(f"{folder} is an adapter of type {kind}: only LORA can be served")
    for name, means in (("use_dora", "DoRA"), ("lora_bias", "a bias"), ("modules_to_save", "whole modules")):
        if config.get(name):
            raise ModelError(f"{folder} has {means} ({name}), which vLLM does not serve: train it without")
    if config.get("bias", "none") != "none":
        raise ModelError(f"{folder} has biases (bias is {config['bias']}), which vLLM does not serve: train it without")
    if start.startswith(CHANGED_BASE):
        raise ModelError(
            f"{folder} was initialised by {start}, which changes the base: convert it to a plain LoRA adapter first"
        )


def _check_base(folder: Path, shapes: dict[str, Shape], base: Path) -> None:
    """Each pair A (rank × in) and B (out × rank) belongs beside a weight (out × in) of the base."""
    weights = folders.shapes(base)
    matched = 0
    for name, shape in shapes.items():
        module, _, side = name.removeprefix("base_model.model.").rpartition(".lora_")
        weight = weights.get(f"{module}.weight") or weights.get(f"model.{module}.weight")
        if weight is None or len(weight) != 2 or not side.endswith(".weight"):
            continue  # engines fuse and rename some modules, and report those that they do not know themselves
        expected, found = (weight[1], shape[1]) if side.startswith("A") else (weight[0], shape[0])
        if expected != found:
            raise ModelError(
                f"{folder} is an adapter of another base: {module} has {found} values there and {expected} in {base}"
            )
        matched += 1
    if not matched:
        raise ModelError(f"{folder} is an adapter of another base: {base} has none of the modules that it changes")
