"""Why a model did not load, from what vLLM 0.32 really wrote; and why a request failed."""

from pathlib import Path

import pytest

from models_registry.engine.log_reasons import (
    LoadError,
    Shortage,
    ShortageKind,
    explain,
    last_error,
    of_request,
    shortage,
)
from tests.models_registry.engine.test_stages import STATISTICS

KV_CACHE = """\
(EngineCore pid=5332) ERROR 11-21 06:22:01 [core.py:1510] EngineCore failed to start.
(EngineCore pid=5332) ERROR 11-21 06:22:01 [core.py:1510] Traceback (most recent call last):
(EngineCore pid=5332) ERROR 11-21 06:22:01 [core.py:1510]   File "core.py", line 1481, in run_engine_core
(EngineCore pid=5332) ERROR 11-21 06:22:01 [core.py:1510]     raise ValueError(
(EngineCore pid=5332) ERROR 11-21 06:22:01 [core.py:1510] ValueError: To serve at least one request with the \
model's max seq len (131072), (2.81 GiB KV cache is needed, which is larger than the available KV cache memory \
(1.0 GiB). Based on the available memory, the estimated maximum model length is 46464.
Process EngineCore:
Traceback (most recent call last):
  File "core.py", line 1514, in run_engine_core
    raise e
    raise ValueError(
ValueError: To serve at least one request with the model's max seq len (131072), (2.81 GiB KV cache is needed, which \
is larger than the available KV cache memory (1.0 GiB). Based on the available memory, the estimated maximum model \
length is 46464.
Traceback (most recent call last):
  File "utils.py", line 1431, in wait_for_engine_startup
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}
/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 \
leaked shared_memory objects to clean up at shutdown
  warnings.warn('resource_tracker: There appear to be %d '
"""
TRUNCATED = """\
(Worker pid=5174) ERROR 11-21 06:20:15 [multiproc_executor.py:953] WorkerProc failed to start.
(Worker pid=5174) ERROR 11-21 06:20:15 [multiproc_executor.py:953] Traceback (most recent call last):
(Worker pid=5174) ERROR 11-21 06:20:15 [multiproc_executor.py:953]     with safe_open(st_file, framework="pt") as f:
(Worker pid=5174) ERROR 11-21 06:20:15 [multiproc_executor.py:953]          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
(Worker pid=5174) ERROR 11-21 06:20:15 [multiproc_executor.py:953] safetensors._safetensors_rust.SafetensorError: \
Error while deserializing header: incomplete metadata, file not fully covered
(EngineCore pid=5095) ERROR 11-21 06:20:17 [core.py:1510] Exception: WorkerProc initialization failed due to an \
exception in a background process. See stack trace for root cause.
Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}
"""
TOO_LONG = """\
(APIServer pid=4850) WARNING 11-21 06:18:57 [system_utils.py:255] Found ulimit of 20000 and failed to automatically \
increase with error current limit exceeds maximum limit. This can cause fd limit errors like `OSError: [Errno 24] Too \
many open files`.
Traceback (most recent call last):
  File "pydantic/_internal/_dataclasses.py", line 121, in __init__
    s.__pydantic_validator__.validate_python(ArgsKwargs(args, kwargs), self_instance=s)
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (100000) is greater than the derived max_model_len \
(max_position_embeddings=8192.0 or model_max_length=None in model's config.json). [type=value_error]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
NO_FOLDER = """\
Traceback (most recent call last):
  File "huggingface_hub/utils/_validators.py", line 133, in validate_repo_id
    raise HFValidationError(
huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': \
'/models/does-not-exist'. Use `repo_type` argument if needed.
"""
BAD_ARGUMENT = """\
                      [--max-num-seqs MAX_NUM_SEQS]
api_server.py: error: unrecognized arguments: --no-such-argument
"""
BAD_VALUE = "api_server.py: error: argument --max-num-seqs: invalid int value: 'banana'\n"
NO_MEMORY = """\
Traceback (most recent call last):
  File "worker.py", line 3, in load
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.5 GiB
"""
NO_VLLM = "/usr/bin/python: Error while finding module specification for 'vllm.entrypoints.openai.api_server' \
(ModuleNotFoundError: No module named 'vllm')\n"


@pytest.fixture
def log(tmp_path):
    def write(text):
        path = tmp_path / "engine.log"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    "text, reason, hint",
    [
        (KV_CACHE, "ValueError: To serve at least one request with the model's max seq len (131072)", "max-model-len"),
        (TRUNCATED, "SafetensorError: Error while deserializing header", "damaged"),
        (TOO_LONG, "User-specified max_model_len (100000) is greater than", "max-model-len"),
        (NO_FOLDER, "Repo id must be in the form", "Check the model's folder"),
        (BAD_ARGUMENT, "unrecognized arguments: --no-such-argument", "engine options"),
        (BAD_VALUE, "argument --max-num-seqs: invalid int value: 'banana'", "engine options"),
        (NO_MEMORY, "CUDA out of memory", "smaller or quantized model"),
        (NO_VLLM, "No module named 'vllm'", "make demo"),
    ],
    ids=["kv cache", "truncated weights", "too long", "no folder", "argument", "value", "out of memory", "no vllm"],
)
def test_the_cause_and_what_to_change(log, text, reason, hint):
    error = explain(log(text), "it ended")
    assert reason in error.reason and hint in error.hint
    assert "See root cause" not in error.reason and "pid=" not in error.reason
    assert str(error) == f"{error.reason}. {error.hint}"


GPU_SHARE = """\
(EngineCore pid=1) ERROR 07-01 10:00:00 [core.py:1] ValueError: Free memory on device cuda:0 (40.12/79.25 GiB) on \
startup is less than desired GPU memory utilization (0.92, 72.91 GiB). Decrease GPU memory utilization or reduce GPU \
memory used by other processes.
"""
CPU_SHARE = """\
ValueError: Available memory on node 0 (9.5/15.6 GiB) on startup is less than desired CPU memory utilization \
(0.92, 14.35 GiB). On the CPU backend, the `--gpu-memory-utilization` flag controls the fraction of CPU memory \
reserved (despite its name). To resolve: decrease `--gpu-memory-utilization` (e.g. `--gpu-memory-utilization 0.5`) or \
reduce CPU memory used by other processes.
"""
CPU_CACHE = """\
ValueError: Available memory on node 0 (3.2/15.6 GiB) on kv cache allocation is less than requested memory for kv \
(8.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by other processes.
"""
CPU_CACHE_BY_SHARE = """\
ValueError: Available memory on node 0 (3.2/15.6 GiB) on kv cache allocation is less than requested memory for kv \
(7.5/14.35 GiB). Reduce CPU memory used by other processes.
"""
NO_CACHE = """\
ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the \
engine (this flag also controls CPU memory reservation on the CPU backend, despite its name).
"""
NO_ESTIMATE = """\
ValueError: To serve at least one request with the model's max seq len (8192), (3.1 GiB KV cache is needed, which is \
larger than the available KV cache memory (0.01 GiB). Try increasing `gpu_memory_utilization`.
"""
NO_MEMORY_WITH_NUMBERS = """\
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 23.50 GiB of \
which 64.00 MiB is free. Including non-PyTorch memory, this process has 23.43 GiB memory in use.
"""
NO_MEMORY_FOR_WEIGHTS = (
    "ERROR 07-01 10:00:00 [gpu_model_runner.py:1] Failed to load model - not enough GPU memory. Try lowering "
    "--gpu-memory-utilization to free memory for weights.\n" + NO_MEMORY_WITH_NUMBERS
)
NO_MEMORY_TO_WARM_UP = (
    NO_MEMORY_WITH_NUMBERS
    + "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try lowering "
    "`max_num_seqs` or `gpu_memory_utilization` when initializing the engine.\n"
)
NO_MEMORY_ON_CPU = (
    "RuntimeError: [enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 2147483648 bytes. Error code 12 (Cannot allocate memory)\n"
)


@pytest.mark.parametrize(
    "text, expected",
    [
        (KV_CACHE, Shortage(ShortageKind.CONTEXT, 2.81, 1.0, None, 131072, 46464)),
        (NO_ESTIMATE, Shortage(ShortageKind.CONTEXT, 3.1, 0.01, None, 8192, None)),
        (NO_CACHE, Shortage(ShortageKind.CACHE)),
        (GPU_SHARE, Shortage(ShortageKind.SHARE, 72.91, 40.12, 79.25)),
        (CPU_SHARE, Shortage(ShortageKind.SHARE, 14.35, 9.5, 15.6)),
        (CPU_CACHE, Shortage(ShortageKind.CPU_CACHE, 8.0, 3.2, 15.6)),
        (CPU_CACHE_BY_SHARE, Shortage(ShortageKind.CPU_CACHE, 7.5, 3.2, 15.6)),
        (NO_MEMORY, Shortage(ShortageKind.OTHER, 2.0, None, 23.5)),
        (NO_MEMORY_WITH_NUMBERS, Shortage(ShortageKind.OTHER, 0.5, 0.0625, 23.5)),
        (NO_MEMORY_FOR_WEIGHTS, Shortage(ShortageKind.WEIGHTS, 0.5, 0.0625, 23.5)),
        (NO_MEMORY_TO_WARM_UP, Shortage(ShortageKind.WARM_UP, 0.5, 0.0625, 23.5)),
        (NO_MEMORY_ON_CPU, Shortage(ShortageKind.OTHER, 2.0)),
    ],
)
def test_the_memory_that_was_wanting(log, text, expected):
    error = explain(log(text), "it ended")
    assert error.shortage == expected and error.hint and not error.killed


@pytest.mark.parametrize("text", [TRUNCATED, TOO_LONG, NO_FOLDER, BAD_ARGUMENT, BAD_VALUE, NO_VLLM, ""])
def test_what_is_no_want_of_memory(log, text):
    """A warning about memory above it makes no difference: a model that is too long stays so with less."""
    assert explain(log("WARNING CUDA out of memory once\n" + text), "otherwise").shortage is None


def test_a_shortage_in_words():
    assert str(Shortage(ShortageKind.CONTEXT, 3.1, 2.0)) == "needs 3.1 GiB, 2 GiB there"
    assert str(Shortage(ShortageKind.OTHER, 0.5)) == "needs 0.5 GiB"
    assert str(Shortage(ShortageKind.CACHE)) == "out of memory"


def test_a_hostile_reason_is_read_in_no_time():
    assert shortage("Free memory on device " * 20_000) is None
    assert shortage("to serve at least one request " * 20_000) is None


@pytest.mark.parametrize("text", ["", "INFO nothing of interest\n", b"\xff\xfe\0" * 100])
def test_a_log_that_says_nothing(log, text):
    error = explain(log(text), "the engine ended with status -9")
    assert (error.reason, error.hint) == ("the engine ended with status -9", "")


def test_no_log_at_all(tmp_path):
    assert explain(tmp_path / "none", "gone").reason == "gone"
    assert of_request(tmp_path / "none", "r1") is None


def test_a_traceback_that_ends_in_something_unusual(log):
    text = "Traceback (most recent call last):\n  File x\nCUDA_out_of_memory:_no_room\n  warnings.warn('leaked')\n"
    assert explain(log(text), "otherwise").reason == "CUDA_out_of_memory:_no_room"


def test_a_reason_without_end_is_cut(log):
    assert len(explain(log("ValueError: " + "x" * 100_000), "").reason) <= 1000


def test_only_the_end_of_a_long_log_is_read(log):
    assert explain(log("ValueError: early\n" + "x\n" * 100_000), "otherwise").reason == "otherwise"


def test_without_a_hint():
    assert str(LoadError("something")) == "something."


def test_what_pydantic_says_around_a_reason_is_left_out(log):
    text = (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "  Value error, User-specified max_model_len (9) is greater than 8. [type=value_error, input_value=Args()]\n"
        "    For further information visit https://errors.pydantic.dev/2/v/value_error\n"
    )
    assert explain(log(text), "otherwise").reason == "User-specified max_model_len (9) is greater than 8."


BAD_GRAMMARS = Path(__file__).parent / "engine_logs" / "bad-grammars.log"  # of vLLM 0.32 with four requests that failed


@pytest.mark.parametrize(
    "request_id, reason",
    [
        ("req-1", "RuntimeError: items must be a boolean or an object"),
        ("req-4", 'RuntimeError: EBNF parser error at line 2, column 1: Rule "root" is defined multiple times'),
        ("req-2", "No answer can satisfy its schema or grammar."),
        ("req-5", "No answer can satisfy its schema or grammar."),
        ("req-3", None),
        ("1", None),
        ("", None),
        ("EngineCore", None),
    ],
)
def test_why_a_request_failed(request_id, reason):
    assert of_request(BAD_GRAMMARS, request_id) == reason


def test_the_reason_of_a_request_among_other_processes(log):
    lines = BAD_GRAMMARS.read_text().splitlines(keepends=True)
    other = "(APIServer pid=1) INFO 11-27 11:44:37 [a.py:1] ValueError: of another one\n"
    assert of_request(log(other.join(lines)), "req-1") == "RuntimeError: items must be a boolean or an object"


def test_statistics_between_the_lines_change_nothing(log):
    lines = BAD_GRAMMARS.read_text().splitlines(keepends=True)
    assert of_request(log(STATISTICS.join(lines)), "req-1") == of_request(BAD_GRAMMARS, "req-1")
    assert last_error(log(f"ValueError: too little\n{STATISTICS * 3}")) == "ValueError: too little"
    assert explain(log(f"ValueError: too little\n{STATISTICS}"), "else").reason == "ValueError: too little"
    assert last_error(log(STATISTICS)) == ""


def test_a_reason_that_was_raised_from_another(log):
    lead = "(EngineCore pid=7) ERROR 11-27 11:44:37 [core.py:1] "
    text = (
        "Unexpected error pre-processing request 0_cmpl-r9-0-0a1b2c3d",
        "Traceback (most recent call last):",
        '  File "a.py", line 1, in one',
        "KeyError: 'inner'",
        "",
        "The above exception was the direct cause of the following exception:",
        "",
        "Traceback (most recent call last):",
        '  File "a.py", line 2, in two',
        "ValueError: outer",
        "with more words on the next line",
    )
    assert of_request(log("".join(f"{lead}{one}\n" for one in text)), "r9") == "ValueError: outer"


def test_the_reason_of_a_request_is_cut(log):
    text = "Failed to compile grammar for request r1\nTraceback (most recent call last):\nValueError: " + "x" * 100_000
    assert len(of_request(log(text), "r1")) == 500


def test_a_package_that_is_missing():
    error = explain(BAD_GRAMMARS.with_name("h200-missing-package.log"), "it ended")
    assert error.reason == "ModuleNotFoundError: No module named 'flashinfer'" and "install it" in error.hint


def test_a_parser_of_tool_calls_that_there_is_not(log):
    text = "KeyError: 'invalid tool call parser: none (chose from { hermes,llama3_json })'\n"
    assert "tool-call-parser" in explain(log(text), "it ended").hint
