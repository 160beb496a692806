"""Pickles can hold code. We say that the engine takes only tensors out of them: does the vLLM that is installed?"""

import ast
import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

READERS = (b"torch.load(", b"np.load(", b"numpy.load(", b"pickle.load")
# What reads what vLLM's own processes have written, never a model's file.
OWN = {
    "model_executor/model_loader/weight_cache/protocol.py",
    "model_executor/models/registry.py",
    "transformers_utils/config.py",
}
LOAD = """
import sys
from vllm.model_executor.model_loader.weight_utils import pt_weights_iterator
print([name for name, tensor in pt_weights_iterator([sys.argv[1]], False)])
"""


def installed() -> Path:
    found = find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed here")
    return Path(found.origin).parent


def calls(path: Path):
    """Each call in a file, by its dotted name."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}


def test_vllm_takes_only_tensors_out_of_pickles():
    """Whoever updates vLLM, and finds this failing: `allow_pickle` then takes the gate of `trust_remote_code`."""
    home, seen, unpickling = installed(), 0, set()
    for path in home.rglob("*.py"):
        if not any(reader in path.read_bytes() for reader in READERS):
            continue
        place = path.relative_to(home).as_posix()
        for name, given in calls(path):
            if name == "torch.load":
                seen += 1
                assert given.get("weights_only") == "True", f"{place} reads pickles whole"
            elif name in ("np.load", "numpy.load"):
                assert given.get("allow_pickle", "False") == "False", f"{place} reads pickles whole"
            elif name in ("pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads"):
                unpickling.add(place)
    assert seen > 5, "that is where they are read"
    ours = ("model_executor/model_loader/", "model_executor/models/", "lora/", "tokenizers/", "transformers_utils/")
    assert {place for place in unpickling if place.startswith(ours)} <= OWN


class Code:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.slow
@pytest.mark.many
def test_the_engine_s_loader_does_not_run_what_is_in_one(tmp_path):
    marker, weights = tmp_path / "it has run", tmp_path / "pytorch_model.bin"
    weights.write_bytes(pickle.dumps({"lm_head.weight": Code(marker)}, protocol=2))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", LOAD, str(weights)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd="/")
    assert done.returncode != 0 and "Weights only load failed" in done.stderr, done.stderr[-2000:]
    assert not marker.exists()
    pickle.loads(weights.read_bytes())
    assert marker.exists(), "the same file is dangerous where it is read whole"
