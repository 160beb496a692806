"""What the worker asks of a local engine besides answers: is it healthy, its adapters, its sleep.

One short request at a time on the engine's socket. Knows no processes.
"""

import http.client
import json
import math
import socket
from typing import Any

from models_registry.engine.reasons import LoadError
from models_registry.engine.refusals import said
from models_registry.engine.spec import Adapter, Address, EngineSpec

ADAPTER_SECONDS = 120
SLEEP_SECONDS = 180  # the weights travel between the GPU's memory and the machine's
SAY_SECONDS = 60
SILENT = (OSError, http.client.HTTPException)  # what an engine that gives no answer looks like

PROMPT = "The three largest cities of Italy are"
ALIKE = 0.999  # cosine of two vectors of one text from one model: batches are not summed in one order


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("engine", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(address: Address, method: str, path: str, body: Any = None, timeout: float = 5) -> tuple[int, bytes]:
    """Status and body of its answer. Raises one of SILENT when there is none."""
    link = _UnixConnection(address.socket, timeout)
    headers = {"Authorization": f"Bearer {address.key}", "Content-Type": "application/json"}
    try:
        link.request(method, path, None if body is None else json.dumps(body), headers)
        response = link.getresponse()
        return response.status, response.read()
    finally:
        link.close()


def answers(address: Address, timeout: float = 5) -> bool:
    """Does the local engine at this address say that it is healthy?"""
    try:
        return ask(address, "GET", "/health", timeout=timeout)[0] == 200
    except SILENT:
        return False


def adapters(address: Address) -> set[str]:
    """Names of the adapters that the engine has. Raises one of SILENT."""
    answer = _wanted(address, "GET", "/v1/models")
    return {model["id"] for model in answer.get("data", []) if model.get("parent")}


def load_adapter(address: Address, adapter: Adapter) -> None:
    """Have a running engine serve it too. Raises LoadError with the engine's reason, or one of SILENT."""
    given = {"lora_name": adapter.name, "lora_path": adapter.path}
    status, body = ask(address, "POST", "/v1/load_lora_adapter", given, timeout=ADAPTER_SECONDS)
    if status != 200:
        raise LoadError(f"the engine refused the adapter in {adapter.path}: {said(status, body)}")


def unload_adapter(address: Address, name: str) -> None:
    """Raises LoadError, or one of SILENT."""
    status, body = ask(address, "POST", "/v1/unload_lora_adapter", {"lora_name": name}, timeout=ADAPTER_SECONDS)
    if status != 200:
        raise LoadError(f"the engine did not unload the adapter {name}: {said(status, body)}")


def sleep(address: Address) -> None:
    """Its weights go to the machine's memory, the rest of the GPU's memory is free. Raises one of SILENT.

    The second level, which forgets the weights, is not used: waked in one step, an engine then speaks gibberish.
    """
    _wanted(address, "POST", "/sleep?level=1", timeout=SLEEP_SECONDS)
    if _wanted(address, "GET", "/is_sleeping").get("is_sleeping") is not True:
        raise http.client.HTTPException("it says that it does not sleep")


def wake(address: Address) -> None:
    """Raises one of SILENT."""
    if _wanted(address, "POST", "/wake_up", timeout=SLEEP_SECONDS).get("status", "awake") != "awake":
        raise http.client.HTTPException("it says that it sleeps on")


def say(address: Address, spec: EngineSpec) -> str | list[float]:
    """What it makes of a fixed prompt, by which it can be known again: a text, or a vector. Raises one of SILENT."""
    try:
        if spec.task == "embedding":
            body: dict[str, Any] = {"model": spec.name, "input": PROMPT}
            answer = _wanted(address, "POST", "/v1/embeddings", body, SAY_SECONDS)
            return [float(number) for number in answer["data"][0]["embedding"]]
        body = {"model": spec.name, "prompt": PROMPT, "max_tokens": 16, "temperature": 0}
        body |= {"ignore_eos": True, "skip_special_tokens": False}  # so that something is said
        return str(_wanted(address, "POST", "/v1/completions", body, SAY_SECONDS)["choices"][0]["text"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise http.client.HTTPException(f"an answer of no known shape: {error!r}") from error


def alike(one: str | list[float], other: str | list[float]) -> bool:
    """Do these two come from one model in one state of health?"""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    length = math.hypot(*one) * math.hypot(*other)
    along = sum(x * y for x, y in zip(one, other, strict=False))
    return len(one) == len(other) and length > 0 and along >= ALIKE * length


def _wanted(address: Address, method: str, path: str, body: Any = None, timeout: float = 5) -> dict[str, Any]:
    """The object in its answer, when that is a 200 (an empty one for an empty body). Raises one of SILENT."""
    status, content = ask(address, method, path, body, timeout)
    if status != 200:
        raise http.client.HTTPException(f"{method} {path}: {status} {said(status, content)}".rstrip())
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise http.client.HTTPException(f"{method} {path}: {content[:100]!r} is no object")
    return found
