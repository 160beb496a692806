"""A whole vbs in a folder of its own: started, spoken to over HTTP, its times read from its database.

The database has every state's time to the microsecond, and asking it costs the measured processes nothing.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from benchmarks.rows import BenchmarkError
from benchmarks.workload import CHAT, plain
from vbs.run import postgres
from vbs.run.stack import BASE_DIR, Stack, free_port

STATES = ("created", "validated", "in_progress", "finalizing", "completed", "failed", "expired", "cancelled")
COLUMNS = ", ".join(f"extract(epoch FROM {state}_at)::float8" for state in STATES)
WAIT_SECONDS = 3600.0


@dataclass(frozen=True)
class Run:
    """A batch as far as it has come. `at`: when it entered each state, in Unix seconds."""

    at: dict[str, float]
    total: int
    completed: int
    failed: int
    output_tokens: int

    def seconds(self, start: str, end: str) -> float:
        return self.at[end] - self.at[start]


def token_rate(runs: Sequence[Run]) -> float:
    """Output tokens per second, from the first request of the first of them to the last answer of the last."""
    begin, end = min(run.at["in_progress"] for run in runs), max(run.at["finalizing"] for run in runs)
    return sum(run.output_tokens for run in runs) / (end - begin)


class System:
    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.key = self.manage("create_api_key", "--project", "benchmarks", "--name", "benchmarks").split()[-1]
        headers = {"Authorization": f"Bearer {self.key}"}
        self.http = httpx.Client(base_url=f"{stack.url}/v1", headers=headers, timeout=600, trust_env=False)
        self.database = psycopg.connect(
            host=str(postgres.data_dir(stack.data)), user="postgres", dbname="postgres", autocommit=True
        )

    def close(self) -> None:
        self.http.close()
        self.database.close()

    def manage(self, *words: str) -> str:
        command = [sys.executable, str(BASE_DIR / "manage.py"), *words]
        done = subprocess.run(command, env=self.stack.environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise BenchmarkError(f"`manage.py {' '.join(words)}` ended with status {done.returncode}.")
        return done.stdout

    def add_model(self, name: str, source: str, **args: Any) -> None:
        options = [f"--arg={key.replace('_', '-')}={json.dumps(value)}" for key, value in args.items()]
        self.manage("model", "add", name, source, "--task", "chat", *options)

    def upload(self, path: Path) -> str:
        with path.open("rb") as file:
            answer = self._json(self.http.post("/files", files={"file": file}, data={"purpose": "batch"}))
        return str(answer["id"])

    def create(self, file_id: str) -> str:
        return str(self.create_object(file_id)["id"])

    def create_object(self, file_id: str) -> Any:
        body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
        return self._json(self.http.post("/batches", json=body))

    def get(self, path: str) -> Any:
        return self._json(self.http.get(path))

    def cancel(self, batch_id: str) -> None:
        """Returns when it is cancelled, or has completed before."""
        answer = self.http.post(f"/batches/{batch_id}/cancel")
        if answer.status_code != 409:
            self._json(answer)
            self.wait(batch_id, "cancelled")

    def run(self, path: Path) -> Run:
        """Upload, create, and wait for the end."""
        return self.wait(self.create(self.upload(path)))

    def run_together(self, paths: Sequence[Path]) -> list[Run]:
        """A batch of each file. All are validated before the first may begin."""
        self.manage("queue", "pause")
        batches = [self.create(self.upload(path)) for path in paths]
        for batch_id in batches:
            self.wait(batch_id, "validated")
        self.manage("queue", "resume")
        return [self.wait(batch_id) for batch_id in batches]

    def look(self, batch_id: str) -> Run:
        statement = (
            f"SELECT total, completed, failed - not_run, output_tokens, {COLUMNS} FROM batches_batch WHERE id = %s"
        )
        row = self.database.execute(statement.encode(), [batch_id]).fetchone()
        assert row is not None, batch_id
        return Run({state: at for state, at in zip(STATES, row[4:], strict=True) if at}, *row[:4])

    def wait(self, batch_id: str, until: str = "completed") -> Run:
        """Until it has been in this state. Raises BenchmarkError when it ends otherwise, or with failed requests."""
        deadline, told = time.monotonic() + WAIT_SECONDS, time.monotonic()
        while True:
            run = self.look(batch_id)
            if run.failed or (until not in run.at and {"completed", "failed", "expired", "cancelled"} & set(run.at)):
                log = self.http.get(f"/batches/{batch_id}/logs").text
                raise BenchmarkError(f"The batch ended with {run.failed:,} of {run.total:,} requests failed:\n{log}")
            if until in run.at:
                return run
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{batch_id} has not come to {until} after {WAIT_SECONDS:.0f} s: {run}")
            if time.monotonic() - told > 10:
                told = time.monotonic()
                tell(f"{run.completed:,} of {run.total:,} requests")
            time.sleep(0.1)

    def processes(self) -> dict[psutil.Process, str]:
        """Every process of ours now, and what it is: web, io, gpu, engine or postgres."""
        found: dict[psutil.Process, str] = {}
        roots = {program.pid: program.name for program in self.stack.states() if program.pid}
        if postmaster := postgres.running(self.stack.data):
            roots[postmaster] = "postgres"
        for pid, name in roots.items():
            with suppress(psutil.NoSuchProcess):
                for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                    engine = name == "gpu" and "models_registry.engine.scripted.server" in process.cmdline()
                    found[process] = "engine" if engine else name
        return found

    @staticmethod
    def _json(answer: httpx.Response) -> Any:
        if answer.status_code != 200:
            raise BenchmarkError(f"{answer.request.method} {answer.request.url} answers {answer.text[:500]}")
        return answer.json()


def tell(text: str) -> None:
    print(f"    {text}", file=sys.stderr, flush=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for everything that a benchmark makes."""
    folder = Path(tempfile.mkdtemp(prefix="vbs-bench-"))
    folder.chmod(0o711)  # PostgreSQL may have to run as another user
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def system(folder: Path, **environment: str) -> Iterator[System]:
    """In `folder`/data, which may be there already. Of the environment's settings all but the database count."""
    ours = {"DATABASE_URL": "", "Q_CLUSTER_NAME": "", "VBS_SCRIPTED_ENGINE": "true"}
    stack = Stack(folder / "data", port=free_port(), environment=ours | environment)
    with stack:
        stack.wait_ready()
        running = System(stack)
        try:
            yield running
        finally:
            running.close()


@contextmanager
def scripted(folder: Path, environment: dict[str, str] | None = None, **args: Any) -> Iterator[System]:
    """With the scripted engine registered as `scripted`, loaded and idle."""
    with system(folder, **environment or {}) as running:
        running.add_model("scripted", "scripted:", **args)
        running.run(plain(folder / "warm-up.jsonl", 100))
        yield running
