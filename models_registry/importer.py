"""Puts models into the registry, and takes them out: `add` and `remove`.

A source is a folder as Hugging Face lays it out, a GGUF file (converted into a folder of ours), the URL of an
OpenAI-compatible server, or `scripted:` (an engine without a model, for tests and demos). Knows nothing of batches:
apps above say through BLOCKERS who still needs a model.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.db import IntegrityError, transaction

from models_registry import adapter_folder, made_folders
from models_registry.engine import options as engine_options
from models_registry.engine.options import OptionError
from models_registry.engine.spec import EngineKind
from models_registry.made_folders import Progress
from models_registry.model_folder import Facts, ModelError, examine
from models_registry.models import Alias, Model, Task
from vbs.broker import wake

__all__ = ["BLOCKERS", "ModelError", "add", "remove"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}")
OPTION = re.compile(r"[a-z][a-z0-9.-]*")
MOST_SOURCE = 900  # characters, so that it fits its column also as an absolute path
SOURCES = "give a folder, a .gguf file, an http(s)://…/v1 URL, or scripted:"

# Apps above register here what may still need a model: each is given its names, and returns reasons, in words.
BLOCKERS: list[Callable[[Sequence[str]], list[str]]] = []


def add(
    name: str,
    source: str,
    task: str | None = None,
    engine_args: dict[str, Any] | None = None,
    *,
    remote_name: str = "",
    base: Model | None = None,
    copy: bool = False,
    on_progress: Progress = lambda step: None,
) -> Model:
    """Register a model. Raises ModelError, which says what was wrong and what to do; then nothing has changed.

    task: guessed from the model where it is not given. engine_args: options of the engine by their long name without
    dashes; for vLLM those of models_registry.engine.options. remote_name: what a remote server calls the model. base:
    the model whose LoRA adapter the folder holds. copy: keep a copy of the folder under MODELS_DIR instead of using it
    where it is. on_progress is told each step that takes long.
    """
    options = engine_args or {}
    _check(name, task)
    if len(source) > MOST_SOURCE:
        raise ModelError(f"{source[:60]!r}… is too long: a source has at most {MOST_SOURCE} characters")
    if base:
        if given := [what for what, is_given in (("task", task), ("options", options), ("copy", copy)) if is_given]:
            raise ModelError(f"an adapter has the {given[0]} of its base, and stays where it is: leave that out")
        return _add_adapter(name, Path(source).expanduser().absolute(), base)
    if source.startswith(("http://", "https://")):
        _check_url(source)
        check_options(EngineKind.REMOTE, options)
        url = source.rstrip("/")
        return _register(name, EngineKind.REMOTE, url, task or Task.CHAT, options, remote_name)
    if remote_name:
        raise ModelError(
            f"a remote name ({remote_name}) is only for a model on a remote server, and {source!r} is none"
        )
    if source == "scripted:":
        check_options(EngineKind.SCRIPTED, options)
        return _register(name, EngineKind.SCRIPTED, "", task or Task.CHAT, options)
    if "://" in source or source.startswith("scripted:"):
        raise ModelError(f"unknown kind of source {source!r}: {SOURCES}")
    options = check_options(EngineKind.VLLM, options)
    return _add_local(name, Path(source).expanduser().absolute(), task, options, copy, on_progress)


def check_options(kind: EngineKind, options: dict[str, Any]) -> dict[str, Any]:
    """Engine options as this kind of engine takes them. Raises ModelError."""
    if kind is EngineKind.VLLM:
        try:
            return engine_options.check(options)
        except OptionError as error:
            raise ModelError(str(error)) from error
    if kind is EngineKind.REMOTE and options:
        raise ModelError(f"a remote server has its own engine options: leave out {', '.join(sorted(options))}")
    _check_scripted(options)
    return options


def remove(model: Model, files: bool = False) -> None:
    """Take a model out of the registry; with `files` also its folder, which must be one that we made."""
    pointing = list(model.aliases.values_list("name", flat=True))
    reasons = [f"adapter {name}" for name in model.adapters.values_list("name", flat=True)]
    reasons += [f"alias {name}" for name in pointing]
    reasons += [reason for blocker in BLOCKERS for reason in blocker([model.name, *pointing])]
    if reasons:
        raise ModelError(f"{model.name} is still needed: {'; '.join(reasons)}")
    if not files:
        model.delete()
        if model.base:
            wake("gpu")  # whose engine may have it
        return
    folder = Path(model.source)
    if not made_folders.is_ours(folder):
        raise ModelError(
            f"the files of {model.name} ({model.source or 'none'}) are not ours to delete: leave out --files"
        )
    if other := Model.objects.filter(source=model.source).exclude(pk=model.pk).first():
        raise ModelError(f"{folder} is also the folder of {other.name}: leave out --files")
    with made_folders.lock(folder):
        model.delete()
        made_folders.discard(folder)


def _add_adapter(name: str, folder: Path, base: Model) -> Model:
    if base.base or base.kind == EngineKind.REMOTE:
        kind = "an adapter" if base.base else "on a remote server"
        raise ModelError(f"{base.name} is {kind}: an adapter's base is a model that runs here")
    if base.task == Task.EMBEDDING:
        raise ModelError(f"{base.name} makes embeddings: adapters are served for chat and completion models")
    facts = adapter_folder.examine(folder, Path(base.source) if base.kind == EngineKind.VLLM else None)
    most = base.engine_args.get("max-lora-rank")
    if most is not None and facts.rank > most:
        raise ModelError(
            f"the adapter's rank is {facts.rank}, and {base.name} is run with max-lora-rank {most}: "
            "raise or remove that option of the base"
        )
    try:
        with transaction.atomic():
            return Model.objects.create(
                name=name,
                kind=base.kind,
                source=str(folder),
                task=base.task,
                base=base,
                lora_rank=facts.rank,
                size_bytes=facts.size_bytes,
                context_length=base.context_length,
            )
    except IntegrityError:
        raise _taken(name) from None


def _add_local(
    name: str, path: Path, task: str | None, options: dict[str, Any], copy: bool, on_progress: Progress
) -> Model:
    if path.is_dir() and adapter_folder.is_adapter(path):
        raise ModelError(f"{path} is an adapter, not a whole model: name its base (--base)")
    if path.is_dir():
        facts = examine(path, task, options)
        if not copy:
            return _register(name, EngineKind.VLLM, str(path), facts.task, options, facts=facts)
    elif not path.exists():
        raise ModelError(f"{path} does not exist: {SOURCES}")
    elif path.suffix.lower() != ".gguf":
        raise ModelError(f"{path} is a file but not a .gguf file: give the folder that the model's config.json is in")
    folder = made_folders.path_of(name)
    if other := Model.objects.filter(source=str(folder)).first():
        raise ModelError(f"{folder} is the folder of {other.name}: choose another name than {name}")
    with made_folders.lock(folder) as held:
        maker = made_folders.copied if path.is_dir() else made_folders.converted
        made_folders.make(folder, path, maker, held, on_progress)
        try:
            facts = examine(folder, task, options)
            return _register(name, EngineKind.VLLM, str(folder), facts.task, options, facts=facts)
        except ModelError:
            if not Model.objects.filter(source=str(folder)).exists():
                made_folders.discard(folder)
            raise


def _check(name: str, task: str | None) -> None:
    if not NAME.fullmatch(name) or ".." in name:
        raise ModelError(
            f"{name!r} cannot be a model's name: use 1 to 200 letters, digits and . _ : / -, "
            "a letter or digit first, and no '..'"
        )
    if task is not None and task not in Task.values:
        raise ModelError(f"unknown task {task!r}: it must be one of {', '.join(Task.values)}")
    if Model.objects.filter(name=name).exists():
        raise _taken(name)
    if alias := Alias.objects.select_related("model").filter(name=name).first():
        raise ModelError(f"{name} is an alias of {alias.model}: choose another name, or remove the alias first")


def _check_scripted(options: dict[str, Any]) -> None:
    for option in options:
        if not OPTION.fullmatch(option):
            raise ModelError(f"{option!r} cannot be an engine option: give its long name, without dashes before it")
        if option in engine_options.OURS:
            raise ModelError(f"the engine option {option} is set by this server: leave it out")


def _check_url(source: str) -> None:
    try:
        parts = urlsplit(source)
        good = parts.hostname and parts.port != 0 and parts.path.rstrip("/").endswith("/v1")
    except ValueError:  # a port that is none, half an IPv6 address
        good = False
    if not good or parts.username or parts.query or parts.fragment:
        raise ModelError(
            f"{source!r} cannot be a remote server: it must look like http(s)://host[:port]/v1, "
            "without a user, a query or a fragment"
        )


def _taken(name: str) -> ModelError:
    return ModelError(f"there is a model {name} already: choose another name, or remove that one first")


def _register(
    name: str,
    kind: EngineKind,
    source: str,
    task: str,
    options: dict[str, Any],
    remote_name: str = "",
    facts: Facts | None = None,
) -> Model:
    try:
        with transaction.atomic():
            return Model.objects.create(
                name=name,
                kind=kind.value,
                source=source,
                task=task,
                engine_args=options,
                remote_name=remote_name,
                size_bytes=facts.size_bytes if facts else None,
                context_length=facts.context_length if facts else None,
            )
    except IntegrityError:
        raise _taken(name) from None
