"""Does a model's engine read tool calls out of its answers, by its options or by itself?"""

import json
from pathlib import Path

from models_registry.engine.spec import EngineKind
from models_registry.models import Model

BY_THEMSELVES = ("gpt_oss",)  # model types whose tool calls vLLM reads without options


def are_read(model: Model) -> bool:
    """False only when a request with tools is certain to be refused, or its tool calls to come as plain text."""
    host = model.base or model
    options = host.engine_args
    if host.kind != EngineKind.VLLM or (options.get("enable-auto-tool-choice") and options.get("tool-call-parser")):
        return True
    folder = Path(host.source)
    if options.get("tokenizer-mode") == "mistral" or (folder / "tekken.json").exists():
        return True  # this tokenizer comes with the format
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return True
    return isinstance(config, dict) and config.get("model_type") in BY_THEMSELVES
