"""Data about an engine: what it is asked to serve, how its start went, and where it answers."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class EngineKind(StrEnum):
    VLLM = "vllm"  # a local folder, served by a child process
    SCRIPTED = "scripted"  # an OpenAI-shaped server without a model, for tests and demos
    REMOTE = "remote"  # any OpenAI-compatible URL; nothing is started here


@dataclass(frozen=True)
class EngineSpec:
    """A model to serve. Two specs that differ at most in `lora` mean the same engine, so a loaded one can be kept.

    name: the model's name in the registry, and the name the engine serves it under.
    source: absolute path of the model's folder, or the base URL of a remote server (up to and with `/v1`).
    task: chat, completion, embedding or score.
    args: options of the engine by their long name without dashes, e.g. {"max-model-len": 2048, "enforce-eager": True}.
    remote_name: what a remote server calls the model, when that differs from `name`.
    pool: base URLs of further remote servers that serve the same.
    private: a remote server may have an address that is not public.
    trial: only somebody who measures other options than the model's own uses the engine.
    media_domains: hosts that vLLM may fetch images, sounds and films from, which a request names by their URL.
    lora: options for the adapters that are there when the engine is started; those in `args` win.
    """

    name: str
    source: str
    task: str = "chat"
    kind: EngineKind = EngineKind.VLLM
    args: tuple[tuple[str, Any], ...] = ()
    remote_name: str = ""
    pool: tuple[str, ...] = ()
    private: bool = False
    trial: bool = False
    media_domains: tuple[str, ...] = ()
    lora: tuple[tuple[str, Any], ...] = ()

    @property
    def served_name(self) -> str:
        return self.remote_name or self.name


@dataclass(frozen=True)
class StartResult:
    """How an engine's start went. Empty for a remote server.

    seconds: until it answered. options: those that it was started with. reduced: those of them that were changed so
    that the model fits; empty when it did as asked. woken: it was woken from sleep instead of started.
    """

    seconds: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    reduced: dict[str, Any] = field(default_factory=dict)
    woken: bool = False


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter for the model of an engine. name: by which calls name it. path: its folder. rank: 0 where it is
    not known."""

    name: str
    path: str
    rank: int = 0


@dataclass(frozen=True)
class Address:
    """Where an engine answers: `url` up to and with `/v1`; `socket` is the path of a Unix socket, or empty."""

    url: str
    socket: str = ""
    key: str = ""

    def __repr__(self) -> str:  # never the key
        return f"Address({self.url!r}, socket={self.socket!r})"
