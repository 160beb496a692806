"""What a worker asks of a local engine besides answers: its health, its adapters, and its sleep mode.

Each function sends one short HTTP request on the engine's socket.
"""

import json
import math
import ssl
from typing import Any

import httpx2

from models_registry.engine.error_bodies import message_of
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.spec import Adapter, Address, EngineSpec

ADAPTER_SECONDS = 120
SLEEP_SECONDS = 180  # the weights are copied between the GPU's memory and main memory
SAY_SECONDS = 60
NO_ANSWER = (OSError, httpx2.HTTPError)  # what an engine that gives no answer looks like
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # to read the system's certificates for each request takes long

PROMPT = "The three largest cities of Italy are"
ALIKE = 0.999  # cosine of two embeddings of one text by one model, which differ a little: sums have no fixed order


def request(address: Address, method: str, path: str, body: Any = None, timeout: float = 5) -> tuple[int, bytes]:
    """Status and body of its answer. Raises one of NO_ANSWER when there is none."""
    headers = {"Authorization": f"Bearer {address.key}", "Content-Type": "application/json"}
    content = None if body is None else json.dumps(body)
    link = httpx2.HTTPTransport(uds=address.socket, verify=NO_TLS)
    with httpx2.Client(transport=link, base_url="http://engine", timeout=timeout, trust_env=False) as client:
        response = client.request(method, path, content=content, headers=headers)
        return response.status_code, response.content


def is_healthy(address: Address, timeout: float = 5) -> bool:
    """Does the local engine at this address answer that it is healthy?"""
    try:
        return request(address, "GET", "/health", timeout=timeout)[0] == 200
    except NO_ANSWER:
        return False


def adapters(address: Address) -> set[str]:
    """Names of the adapters that the engine has. Raises one of NO_ANSWER."""
    answer = _wanted(address, "GET", "/v1/models")
    return {model["id"] for model in answer.get("data", []) if model.get("parent")}


def load_adapter(address: Address, adapter: Adapter) -> None:
    """Have a running engine serve this adapter too. Raises LoadError with the engine's reason, or one of NO_ANSWER."""
    given = {"lora_name": adapter.name, "lora_path": adapter.path}
    status, body = request(address, "POST", "/v1/load_lora_adapter", given, timeout=ADAPTER_SECONDS)
    if status != 200:
        raise LoadError(f"the engine refused the adapter in {adapter.path}: {message_of(status, body)}")


def unload_adapter(address: Address, name: str) -> None:
    """Raises LoadError, or one of NO_ANSWER."""
    status, body = request(address, "POST", "/v1/unload_lora_adapter", {"lora_name": name}, timeout=ADAPTER_SECONDS)
    if status != 200:
        raise LoadError(f"the engine did not unload the adapter {name}: {message_of(status, body)}")


def sleep(address: Address) -> None:
    """Put the engine to sleep: its weights move to main memory, and its GPU memory is free. Raises one of NO_ANSWER.

    Level 2 of vLLM's sleep mode, which drops the weights, is not used: an engine that is then woken in one step answers
    gibberish.
    """
    _wanted(address, "POST", "/sleep?level=1", timeout=SLEEP_SECONDS)
    if _wanted(address, "GET", "/is_sleeping").get("is_sleeping") is not True:
        raise httpx2.HTTPError("the engine answers that it is not asleep")


def wake(address: Address) -> None:
    """Raises one of NO_ANSWER."""
    if _wanted(address, "POST", "/wake_up", timeout=SLEEP_SECONDS).get("status", "awake") != "awake":
        raise httpx2.HTTPError("the engine answers that it is still asleep")


def fixed_answer(address: Address, spec: EngineSpec) -> str | list[float]:
    """The engine's answer to a fixed prompt, a text or a vector. It shows later whether the engine is still sound.

    Raises one of NO_ANSWER.
    """
    try:
        if spec.task == "embedding":
            body: dict[str, Any] = {"model": spec.name, "input": PROMPT}
            answer = _wanted(address, "POST", "/v1/embeddings", body, SAY_SECONDS)
            return [float(number) for number in answer["data"][0]["embedding"]]
        if spec.task == "score":
            body = {"model": spec.name, "queries": PROMPT, "documents": [PROMPT, *PROMPT.split()]}
            answer = _wanted(address, "POST", "/v1/score", body, SAY_SECONDS)
            return [float(one["score"]) for one in answer["data"]]
        body = {"model": spec.name, "prompt": PROMPT, "max_tokens": 16, "temperature": 0}
        body |= {"ignore_eos": True, "skip_special_tokens": False}  # so that the answer is not empty
        return str(_wanted(address, "POST", "/v1/completions", body, SAY_SECONDS)["choices"][0]["text"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise httpx2.HTTPError(f"the answer has an unknown shape: {error!r}") from error


def is_same_answer(one: str | list[float], other: str | list[float]) -> bool:
    """Are these two answers to the fixed prompt the same, so that the same sound model gave both?"""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    length = math.hypot(*one) * math.hypot(*other)
    along = sum(x * y for x, y in zip(one, other, strict=False))
    return len(one) == len(other) and length > 0 and along >= ALIKE * length


def _wanted(address: Address, method: str, path: str, body: Any = None, timeout: float = 5) -> dict[str, Any]:
    """The JSON object of an answer with status 200; {} for an empty body. Raises one of NO_ANSWER."""
    status, content = request(address, method, path, body, timeout)
    if status != 200:
        raise httpx2.HTTPError(f"{method} {path}: {status} {message_of(status, content)}".rstrip())
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise httpx2.HTTPError(f"{method} {path}: {content[:100]!r} is no object")
    return found
