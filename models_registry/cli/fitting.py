"""`manage.py model fit`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from models_registry.catalog import aliases
from models_registry.catalog.folders import ModelError
from models_registry.cli import Console, as_json, positive
from models_registry.fit import formula, judge


def add_to(actions: Any) -> None:
    fits = actions.add_parser("fit", help="does a model fit into this machine's memory?")
    fits.add_argument("name", metavar="NAME_OR_FOLDER")
    fits.add_argument("--context", type=positive, metavar="N", help="tokens; otherwise what the model is set to")
    fits.add_argument("--sequences", type=positive, metavar="N", default=1, help="of that length at once; 1")
    fits.add_argument("--json", action="store_true", dest="json", help="as JSON")
    fits.set_defaults(run=_fit)


def _fit(console: Console, *, name: str, context: int | None, sequences: int, json: bool, **_: Any) -> None:
    found = _judged(name, context, sequences)
    if json:
        content = {"model": name, **asdict(found), "resident": found.resident}
        for part in ("need", "asked"):
            content[part]["total"] = getattr(found, part).total
        console.say(as_json(content))
        return
    console.say(f"{name} {found.text}")
    loads = f"{found.loads} load{'s' * (found.loads != 1)}"
    sizes = {
        "weights": found.need.weights,
        "KV cache": found.need.cache,
        "LoRA": found.need.lora,
        "process": found.need.process,
        "working memory": found.need.working,
        f"correction ({loads})": found.need.correction,
        "sum": found.need.total,
        f"room ({found.room.kind.upper()})": found.room.total,
    }
    for title, number in sizes.items():
        console.say(f"  {title:<21}{formula.size(number):>10}")


def _judged(name: str, context: int | None, sequences: int) -> formula.Fit:
    """A registered model, or a folder. Raises ModelError."""
    if model := aliases.resolve(name):
        return judge.judge(model, context, sequences, ask_hub=True)
    if Path(name).is_dir():
        return judge.judge_folder(Path(name), context, sequences)
    raise ModelError(f"{name!r} is neither a model ('manage.py model list' names those there are) nor a folder")
