"""LoRA adapters for tests, as PEFT saves them, with weights that make no sense."""

import json
import random
import struct
from pathlib import Path
from typing import Any


def adapter_folder(
    folder: Path,
    modules: tuple[str, ...] = ("model.layers.0.self_attn.q_proj",),
    inner: int = 8,
    outer: int = 8,
    rank: int = 4,
    scale: float = 0.1,
    names: dict[str, list[int]] | None = None,
    **config: Any,
) -> Path:
    """`inner`, `outer`: of the weight that each module has in the base. names: tensors by name and shape instead."""
    folder.mkdir(parents=True)
    made = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "task_type": "CAUSAL_LM", "bias": "none"}
    targets = sorted({module.rpartition(".")[2] for module in modules})
    (folder / "adapter_config.json").write_text(json.dumps(made | {"target_modules": targets} | config))
    if names is None:
        names = {}
        for module in modules:
            names[f"base_model.model.{module}.lora_A.weight"] = [rank, inner]
            names[f"base_model.model.{module}.lora_B.weight"] = [outer, rank]
    generator = random.Random(1)
    header: dict[str, Any] = {}
    data = bytearray()
    for name, shape in names.items():
        count = 1
        for length in shape:
            count *= length
        start = len(data)
        data += struct.pack(f"<{count}f", *(generator.gauss(0, scale) for _ in range(count)))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder
