"""vLLM's own `run_batch`: one file in a fresh process, its generation phase timed by its own progress bar.

`Running batch: 0% Completed | 0/300` is printed when the engine is up, the file is parsed and the first request is
about to be sent; `… | 300/300` when the last answer is there, before the output file is written. A line is timed when
it arrives here: the bar's own clock knows only whole seconds.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson

from benchmarks.rows import BenchmarkError

PROGRESS = re.compile(rb"Running batch: .*\| (\d+)/(\d+) \[")
SILENCE = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


def run_batch(
    file: Path, model: Path, name: str, options: Sequence[str], environment: Mapping[str, str]
) -> tuple[float, int]:
    """Seconds of generation, and output tokens. `options`: of the engine. Raises BenchmarkError."""
    output, log = file.with_suffix(".run_batch.jsonl"), file.with_suffix(".run_batch.log")
    command = [sys.executable, "-m", "vllm.entrypoints.openai.run_batch", "-i", str(file), "-o", str(output)]
    command += ["--model", str(model), "--served-model-name", name, *options]
    began = ended = 0.0
    with log.open("wb") as kept, _process(command, dict(environment) | SILENCE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            now = time.monotonic()
            kept.write(line)
            if found := PROGRESS.search(line):
                done, total = int(found[1]), int(found[2])
                if done == 0:
                    began = now
                elif done == total:
                    ended = now
    if process.returncode or not began or not ended:
        end = log.read_bytes()[-3000:].decode(errors="replace")
        raise BenchmarkError(f"run_batch ended with status {process.returncode}:\n{end}")
    answers = [orjson.loads(line) for line in output.read_bytes().splitlines()]
    if bad := [answer for answer in answers if answer["error"]]:
        raise BenchmarkError(f"run_batch: {len(bad)} of {len(answers)} requests failed: {bad[0]}")
    return ended - began, sum(answer["response"]["body"]["usage"]["completion_tokens"] for answer in answers)


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """With all that it starts; nothing of it is left afterwards."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
        process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
