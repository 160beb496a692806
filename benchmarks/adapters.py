"""A model and three adapters of it at once, against one after the other; and what an engine for adapters costs."""

import json
from pathlib import Path

from benchmarks.rows import Options, Row, median, spread
from benchmarks.system import System, scratch, system, tell, token_rate
from benchmarks.versus import NAME, demo_model
from benchmarks.workload import mixed

LEAST = 1.5
RANK = 16
NAMES = (NAME, "adapter-1", "adapter-2", "adapter-3")
ARGS = {"max-model-len": 2048}
WITH, WITHOUT = "an engine for adapters", "an engine without"


def run(options: Options) -> list[Row]:
    with scratch() as folder:
        model = options.model or demo_model(folder)
        with system(folder) as running:
            return [*_at_once(running, folder, model, options), *_for_any(running, folder, model, options)]


def _at_once(running: System, folder: Path, model: Path, options: Options) -> list[Row]:
    """Four batches, one for each name: submitted together, and each when the one before it has ended."""
    count = options.size(250, 8)
    together: list[float] = []
    in_turn: list[float] = []
    running.add_model(NAME, str(model), **ARGS)
    for seed, name in enumerate(NAMES[1:]):
        source = make_adapter(folder / name, model, seed)
        running.manage("model", "add", name, str(source), "--base", NAME)
    for name in NAMES:
        running.run(mixed(folder / "warm-up.jsonl", options.size(16, 2), name, -1))
    for turn in range(options.size(2 * max(1, options.pairs // 2), 2)):
        paths = [
            mixed(folder / f"{name}.jsonl", count, name, 4 * (turn // 2) + place, turn)
            for place, name in enumerate(NAMES)
        ]
        if turn % 4 in (0, 3):
            _note(in_turn, "one after the other", token_rate([running.run(path) for path in paths]))
        else:
            _note(together, "at once", token_rate(running.run_together(paths)))
    ratios = [a / b for a, b in zip(together, in_turn, strict=True)]
    return [
        Row("a base and 3 adapters: at once ÷ in turn", median(ratios), "×", LEAST, note=spread(ratios)),
        Row("a base and 3 adapters: at once", median(together), "tokens/s", note=spread(together, 0)),
        Row("a base and 3 adapters: in turn", median(in_turn), "tokens/s", note=spread(in_turn, 0)),
    ]


def _for_any(running: System, folder: Path, model: Path, options: Options) -> list[Row]:
    """The base alone, on an engine that could take adapters and on one that could not."""
    rates: dict[str, list[float]] = {WITHOUT: [], WITH: []}
    names = {WITHOUT: "plain", WITH: "for-adapters"}
    running.add_model(names[WITHOUT], str(model), **ARGS)
    running.add_model(names[WITH], str(model), **ARGS, **{"enable-lora": True, "max-lora-rank": RANK})
    for turn in range(options.size(2 * max(1, options.pairs // 2), 2)):
        kind = (WITHOUT, WITH, WITH, WITHOUT)[turn % 4]
        running.run(mixed(folder / "warm-up.jsonl", options.size(64, 2), names[kind], -1, turn))
        path = mixed(folder / "in.jsonl", options.size(300, 8), names[kind], turn // 2, turn)
        _note(rates[kind], kind, token_rate([running.run(path)]))
    ratios = [a / b for a, b in zip(rates[WITHOUT], rates[WITH], strict=True)]
    return [
        Row("the base alone: without ÷ for adapters", median(ratios), "×", note=spread(ratios)),
        *(Row(f"the base alone: {kind}", median(one), "tokens/s", note=spread(one, 0)) for kind, one in rates.items()),
    ]


def make_adapter(folder: Path, model: Path, seed: int = 0) -> Path:
    """Random weights for the query and value projections, as small as they should be."""
    import torch
    from safetensors.torch import save_file

    chance = torch.Generator().manual_seed(seed)
    config = json.loads((model / "config.json").read_text())
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    outputs = {"q_proj": heads * size, "v_proj": config.get("num_key_value_heads", heads) * size}
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        for name, width in outputs.items():
            place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{place}.lora_A.weight"] = torch.randn(RANK, hidden, generator=chance) / hidden
            weights[f"{place}.lora_B.weight"] = torch.randn(width, RANK, generator=chance) / RANK
    folder.mkdir()
    save_file(weights, str(folder / "adapter_model.safetensors"))
    given = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "bias": "none"}
    given |= {"target_modules": list(outputs), "base_model_name_or_path": str(model)}
    (folder / "adapter_config.json").write_text(json.dumps(given))
    return folder


def _note(rates: list[float], how: str, rate: float) -> None:
    rates.append(rate)
    tell(f"{how}: {rate:,.1f} tokens/s")
