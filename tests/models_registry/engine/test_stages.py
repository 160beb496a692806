"""How far a start has come: by what vLLM 0.32 really wrote on an H200, and line by line."""

from pathlib import Path

import pytest

from models_registry.engine.start_progress import StartProgress

# What vLLM writes of an engine that runs, every so often.
STATISTICS = (
    "(APIServer pid=1) INFO 11-27 21:41:48 [loggers.py:344] Engine 000: Avg prompt throughput: 123.4 tokens/s, Avg "
    "generation throughput: 56.7 tokens/s, Running: 128 reqs, Waiting: 32 reqs, Preemptions: 3, GPU KV cache usage: "
    "97.0%, Prefix cache hit rate: 12.0%\n"
)
RECORDED = Path(__file__).parent / "engine_logs"


def told(log, lines):
    """What is said after each of these lines, each once."""
    log.touch()
    stages, said = StartProgress(log), []
    for line in lines:
        with log.open("ab") as file:
            file.write(line)
        if (words := stages.look()) not in said[-1:]:
            said.append(words)
    return said


def test_a_start_on_a_gpu(tmp_path):
    """Compiled, with graphs: they are captured twice, and the first time only to see what memory they take."""
    lines = (RECORDED / "h200-start.log").read_bytes().splitlines(keepends=True)
    said = told(tmp_path / "log", lines)
    stages = list(dict.fromkeys(words.partition(" (")[0] for words in said))
    assert stages == [
        "starting",
        "starting the engine",
        "loading weights",
        "compiling",
        "measuring its memory",
        "warming up",
        "capturing graphs",
        "almost ready",
    ]
    assert [words.partition(" (")[0] for words in said] == sorted(
        (words.partition(" (")[0] for words in said), key=stages.index
    ), "it never runs backwards"
    assert "loading weights (100 %)" in said and "capturing graphs (51 %)" in said


def test_a_start_that_ends_early(tmp_path):
    lines = (RECORDED / "h200-missing-package.log").read_bytes().splitlines(keepends=True)
    assert told(tmp_path / "log", lines)[-1] == "loading weights (100 %)"


@pytest.mark.parametrize(
    "lines, words",
    [
        ("", "starting"),
        ("(EngineCore pid=7) INFO 11-27 09:52:49 [cpu.py:1] Using V2 Model Runner\n", "starting"),
        (
            "INFO 07-01 10:00:00 [core.py:1] Initializing a V1 LLM engine (v0.32.0) with warmup: 1\n",
            "starting the engine",
        ),
        ("(Worker pid=3) INFO 07-01 10:00:00 [a.py:1] Starting to load model /m...\n", "loading weights"),
        ("Loading safetensors checkpoint shards:  50% Completed | 1/2\n", "loading weights (50 %)"),
        ("\rLoading safetensors checkpoint shards:  50% Completed | 1/2\rLoading saf", "loading weights (50 %)"),
        ("Loading weights took 2 s\nCPU KV cache size: 46,592 tokens\n", "warming up"),
        ("GPU KV cache size: 1\nCapturing CUDA graphs:  50%|## | 1/2\n", "capturing graphs (50 %)"),
        ("CPU KV cache size: 1\nINFO:     Application startup complete.\n", "almost ready"),
        ("INFO:     Application startup complete.\nLoading weights took 2 s\n", "almost ready"),
        (f"CPU KV cache size: 1\n{STATISTICS}", "warming up"),
    ],
)
def test_by_its_lines(tmp_path, lines, words):
    assert told(tmp_path / "log", [lines.encode()])[-1] == words


def test_no_log(tmp_path):
    assert StartProgress(tmp_path / "none").look() == "starting"
