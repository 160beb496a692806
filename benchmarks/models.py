"""Three real models in turn: how long a swap takes until the first token, and how near `fit` is to what they take.

A swap is from the beginning of unloading the model before until the first token of a request. What a model takes is the
memory of all processes of its engine right after the start. `fit` says it from the model's files alone (uncorrected),
and from its second load on with what it has learned from those before.
"""

from typing import Any

from benchmarks.rows import Options, Row, median, spread
from benchmarks.system import System, scratch, system, tell
from models_registry.fit.formula import error, size

MODELS = ("smollm2-135m", "gemma3-270m", "all-minilm-l6-v2")


def run(options: Options) -> list[Row]:
    rounds = options.size(2, 1)
    swaps: dict[str, list[dict[str, Any]]] = {model: [] for model in MODELS}
    with scratch() as folder, system(folder) as running:
        tell("fetching and converting the models")
        running.manage("model", "add-demo", "smollm2", "gemma", "minilm")
        running.manage("model", "load", MODELS[-1])
        for _ in range(rounds):
            for model in MODELS:
                swaps[model].append(_swap(running, model))
    return [row for model in MODELS for row in _rows(model, swaps[model])]


def _swap(running: System, model: str) -> dict[str, Any]:
    """To this model from another one: its load, and what was said of it before."""
    correction = running.get(f"/registry/models/{model}/fit")["need"]["correction"]
    running.manage("model", "benchmark", model, "--cold", "--requests=4")
    kept = running.get(f"/registry/models/{model}/measurements")["data"]
    latest = {one["kind"]: one for one in reversed(kept)}
    load, first = latest["load"], latest["benchmark"]["first_token_seconds"]
    off = {
        "uncorrected": 100 * error(load["memory_bytes"], load["predicted_bytes"]),
        "corrected": 100 * error(load["memory_bytes"], load["predicted_bytes"] + correction),
    }
    said = ", ".join(f"{name} {value:+.1f} %" for name, value in off.items())
    tell(f"{model}: first token after {first:.1f} s; {size(load['memory_bytes'])} taken, fit {said}")
    return {"first": first, "load": load["load_seconds"], "memory": load["memory_bytes"]} | off


def _rows(model: str, swaps: list[dict[str, Any]]) -> list[Row]:
    first, load = [one["first"] for one in swaps], [one["load"] for one in swaps]
    rows = [
        Row(
            f"{model}: unload to first token", median(first), "s", note=f"{spread(first, 1)}; load {median(load):.1f} s"
        ),
        Row(
            f"{model}: error of fit, from its files alone",
            swaps[0]["uncorrected"],
            "%",
            note=f"{size(swaps[0]['memory'])} measured",
        ),
    ]
    if len(swaps) > 1:
        again = [one["corrected"] for one in swaps[1:]]
        rows.append(Row(f"{model}: error of fit, once it was loaded", median(again), "%", note=spread(again, 1)))
    return rows
