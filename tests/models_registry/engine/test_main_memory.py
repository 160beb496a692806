"""What of the main memory is there, and that an engine is not started into what others have taken."""

from types import SimpleNamespace

import psutil
import pytest

from models_registry.engine import defaults, server
from models_registry.engine.log_reasons import LoadError, ShortageKind
from models_registry.engine.machine import main_memory
from models_registry.engine.spec import EngineSpec

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=20 * GIB, available=12 * GIB))


def group(folder, most, current, stat):
    for name, text in {"max": most, "current": current, "stat": stat}.items():
        (folder / f"memory.{name}").write_text(text)
    return folder


def test_of_a_machine(tmp_path):
    assert (main_memory.available(tmp_path), main_memory.total(tmp_path)) == (12 * GIB, 20 * GIB)


def test_of_a_container(tmp_path):
    """What its cache of files holds can be taken, as the kernel would."""
    group(tmp_path, f"{8 * GIB}\n", f"{6 * GIB}\n", f"anon 1\ninactive_file {GIB}\n")
    assert (main_memory.available(tmp_path), main_memory.total(tmp_path)) == (3 * GIB, 8 * GIB)


def test_of_a_container_of_the_first_kind(tmp_path):
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(str(8 * GIB))
    (folder / "memory.usage_in_bytes").write_text(str(9 * GIB))
    (folder / "memory.stat").write_text("total_inactive_file 0\n")
    assert (main_memory.available(tmp_path), main_memory.total(tmp_path)) == (0, 8 * GIB)


@pytest.mark.parametrize("most", ["max", str(2**63 - 4096), ""])
def test_of_a_container_without_a_limit(tmp_path, most):
    group(tmp_path, most, "5", "")
    assert (main_memory.available(tmp_path), main_memory.total(tmp_path)) == (12 * GIB, 20 * GIB)


@pytest.mark.parametrize(
    "gpu, weights, options, fits",
    [
        (0, 11 * GIB, {}, True),
        (0, 13 * GIB, {}, False),
        (80 * GIB, 13 * GIB, {}, True),
        (80 * GIB, 13 * GIB, {"cpu-offload-gb": 13}, False),
        (80 * GIB, 1, {"cpu-offload-gb": 7, "kv-offloading-size": 6}, False),
    ],
)
def test_an_engine_is_not_started_into_what_others_have(monkeypatch, tmp_path, gpu, weights, options, fits):
    monkeypatch.setattr(defaults, "gpu_memory", lambda: gpu)
    monkeypatch.setattr(defaults, "weights", lambda source: weights)
    monkeypatch.setattr(main_memory, "GROUPS", tmp_path)
    spec = EngineSpec("m", str(tmp_path), args=tuple(options.items()))
    if fits:
        server._check_main_memory(spec, options)
        return
    with pytest.raises(LoadError, match=r"there is not enough main memory for .* 12 GiB there") as error:
        server._check_main_memory(spec, options)
    assert error.value.shortage.of is ShortageKind.WEIGHTS and "End what else uses" in error.value.hint
    assert not error.value.killed


def test_several_api_servers_are_started_by_another_command():
    spec, address = EngineSpec("m", "/m"), server.Address("http://engine/v1", socket="/s")
    one = server._command(spec, address, {"max-num-seqs": 4})
    several = server._command(spec, address, {"max-num-seqs": 4, "api-server-count": 2})
    assert one[1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--model", "/m"]
    assert several[1:5] == ["-m", "vllm.entrypoints.cli.main", "serve", "/m"]
    assert "--disable-log-stats" not in one, "its figures are looked at"
    assert "--api-server-count=2" in several and one[5:] == [flag for flag in several[5:] if "count" not in flag]
