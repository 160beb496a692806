"""Checks the constraints of requests (a schema, regex, grammar or choice): can any answer satisfy them?

For a constraint that no text satisfies, such as `{"$ref": "#"}`, vLLM's backend `guidance` gives an empty answer, as if
the model had nothing to say. So each constraint is checked beforehand, in a process of its own (`constraint_check`).
"""

import contextlib
import hashlib
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from models_registry.engine.environment import minimal

CODE = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "batches.intake.constraint_check"]
MOST_BYTES = 60_000  # of a constraint, so that a pipe holds it; a larger one is left to the engine
MOST_KEPT = 10_000  # results that are cached, because many lines have the same constraint
START_SECONDS = 20.0  # for the process to be ready
ONE_SECONDS = 1.0  # for one constraint
ALL_SECONDS = 10.0  # for all constraints of a file; the rest is left to the engine


class Constraints:
    """Checks the constraints of one file. A constraint that cannot be checked in time counts as good."""

    def __init__(self) -> None:
        self._known: dict[bytes, str] = {}
        self._left = ALL_SECONDS if find_spec("llguidance") else 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def wrong(self, body: Mapping[str, Any]) -> tuple[str, str] | None:
        """The first parameter whose constraint no answer can satisfy, and why; None when there is none."""
        for name, kind, spec in _of(body):
            question = orjson.dumps([kind, spec])
            key = hashlib.blake2b(question, digest_size=16).digest()
            if key not in self._known:
                if self._left <= 0 or len(question) > MOST_BYTES:
                    continue
                if len(self._known) >= MOST_KEPT:
                    self._known.clear()
                self._known[key] = self._ask(question + b"\n")
            if why := self._known[key]:
                return name, f"No answer can satisfy the {kind} in '{name}': {why}."
        return None

    def _ask(self, question: bytes) -> str:
        began = time.monotonic()
        try:
            return self._answer(question)
        finally:
            self._left -= time.monotonic() - began

    def _answer(self, question: bytes) -> str:
        """The process's answer; empty when none comes in time. Then the process is killed, and the next check starts
        another."""
        try:
            if self._process is None:
                self._process = _start()
                _line(self._process, START_SECONDS)  # it is ready
            assert self._process.stdin is not None
            self._process.stdin.write(question)
            self._process.stdin.flush()
            return str(orjson.loads(_line(self._process, ONE_SECONDS)))
        except (OSError, ValueError):  # it was too slow, or has hit one of its limits
            self._end()
            return ""

    def _end(self) -> None:
        if process := self._process:
            self._process = None
            process.kill()
            with contextlib.suppress(OSError):  # a line may still be in the pipe
                process.communicate()


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        COMMAND,
        cwd=CODE,
        env=minimal(OMP_NUM_THREADS="1", RAYON_NUM_THREADS="1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Read a line. Raises OSError when it comes too late, or the process has ended."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    until, found = time.monotonic() + seconds, b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not found.endswith(b"\n"):
            if not selector.select(max(0.0, until - time.monotonic())):
                raise TimeoutError
            piece = os.read(descriptor, 65536)
            if not piece:
                raise ConnectionError("the process has ended")
            found += piece
    return found


def _of(body: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """A request's constraints as vLLM reads them: the parameter, llguidance's name of the kind, and the text."""
    found: list[tuple[str, str, Any]] = []
    if isinstance(given := body.get("structured_outputs"), dict):
        found += [("structured_outputs", kind, given.get(kind)) for kind in ("json", "regex", "choice", "grammar")]
    if isinstance(given := body.get("response_format"), dict) and isinstance(inner := given.get("json_schema"), dict):
        found.append(("response_format", "json", inner.get("schema")))
    if isinstance(given := body.get("text"), dict) and isinstance(inner := given.get("format"), dict):
        found.append(("text", "json", inner.get("schema")))
    return [(name, kind, one) for name, kind, spec in found if (one := _text(spec))]


def _text(spec: Any) -> str:
    if spec is None or isinstance(spec, str):
        return spec or ""
    return orjson.dumps(spec).decode() if isinstance(spec, dict | list) else ""
