"""How far a start has come: by what vLLM 0.32 really wrote on an H200, and line by line."""

import itertools
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from models_registry.engine import start_progress
from models_registry.engine.start_progress import StartProgress, Starts

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


LOGS = [path.read_bytes().splitlines(keepends=True) for path in sorted(RECORDED.glob("*.log"))]
# What a CPU build of vLLM writes of a start, and lines whose percentages run backwards or nowhere.
OTHERS = [
    *(b"(EngineCore pid=7) INFO 11-27 09:52:49 [a.py:1] " + words + b"\n" for words in (
        b"Initializing a V1 LLM engine (v0.32.0)", b"Starting to load model /m...", b"Loading weights took 2 s",
        b"CPU KV cache size: 46,592 tokens", b"Warming up model for the compilation...", b"init engine (profile) took",
    )),
    *(b"Loading safetensors checkpoint shards: %3d%% Completed | 1/2\r" % part for part in (100, 0, 50, 999)),
    *(b"Capturing CUDA graphs: %3d%%|##  | 1/2\r" % part for part in (7, 3, 100)),
    b"INFO:     Application startup complete.\n", b"\xff\xfe\n", b"half a line",
]  # fmt: skip


@given(
    st.data(),
    st.lists(st.lists(st.sampled_from([line for log in LOGS for line in log] + OTHERS), max_size=60), max_size=4),
)
@settings(deadline=None, max_examples=200)
def test_no_start_runs_backwards(tmp_path_factory, data, shuffled):
    """Whatever comes in whichever order, and cut off anywhere: from one start to the next its number is told, and
    within one the phase and the percentage only grow."""
    folder, told_now = tmp_path_factory.mktemp("starts"), []
    starts = Starts(told_now.append)
    whole = data.draw(st.sampled_from(LOGS))
    for number, lines in enumerate([*shuffled, whole[: data.draw(st.integers(0, len(whole)))]], 1):
        tell, log = starts.begin(), folder / f"{number}.log"
        log.touch()
        progress, seen = StartProgress(log), []
        for line in lines:
            with log.open("ab") as file:
                file.write(line)
            tell(progress.look())
            words = told_now[-1]
            prefix = f"attempt {number}: " if number > 1 else ""
            assert words.startswith(prefix) and "attempt" not in words.removeprefix(prefix)
            name, _, part = words.removeprefix(prefix).removesuffix(" %)").partition(" (")
            seen.append((list(start_progress._BEGINS).index(name), int(part or 0), start_progress.percent(words)))
            assert start_progress.start_of(f"Loading org/m:1: {words}") == " ".join(
                ["Loading org/m:1", *([f"attempt {number}"] if number > 1 else [])]
            )
        for before, now in itertools.pairwise(seen):
            assert before[0] < now[0] or (before[0] == now[0] and before[1] <= now[1]), (before, now)
            assert before[2] <= now[2] < 100


def test_what_is_no_phase_has_no_percentage():
    for doing in (
        "",
        "does not fit with max-model-len 8192: trying max-model-len 4096",
        "looking (50 %)",
        "starting (",
    ):
        assert start_progress.percent(doing) is None
    assert start_progress.percent("attempt 3: capturing graphs (100 %)") == 95
    assert start_progress.start_of("Running a batch on m") == ""


def test_no_log(tmp_path):
    assert StartProgress(tmp_path / "none").look() == "starting"
