"""Adds models to the registry, and edits them there.

A source is a folder in Hugging Face's layout, a GGUF file (which is converted into a folder of ours), the URL of an
OpenAI-compatible server, or `scripted:` (an engine without a model, for tests and demos). `hub.downloads` adds models
of the hub, and `catalog.remove` removes models.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.db import IntegrityError, transaction

from models_registry.catalog import adapter_folders, allowed, made_folders, rules, sources
from models_registry.catalog.folders import ModelError, ModelFacts, examine
from models_registry.catalog.made_folders import Progress
from models_registry.engine.spec import EngineKind
from models_registry.models import NO_FAILURE, Model, ModelState, Task

MOST_SOURCE = 900  # characters, so that it fits into its column also as an absolute path
# Where one of these changes, what the last check found does not hold any more.
CHECKED_AGAIN = ("task", "engine_args", "pool", "key_secret", "trust_remote_code", "allow_pickle")
SOURCES = "give a folder, a .gguf file, an http(s)://…/v1 URL, or scripted:"


def add(
    name: str,
    source: str,
    task: str | None = None,
    engine_args: dict[str, Any] | None = None,
    *,
    remote_name: str = "",
    pool: list[str] | None = None,
    key: str = "",
    base: Model | None = None,
    copy: bool = False,
    license: str = "",
    notes: str = "",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    on_server: bool = False,
    later: Callable[[Model], object] | None = None,
    on_progress: Progress = lambda step: None,
) -> Model:
    """Register a model. Raises ModelError, which says what was wrong and what to do; then nothing has changed.

    task: guessed from the model by default. engine_args: options of the engine by their long names without dashes; for
    vLLM those of models_registry.engine.options. remote_name: the remote server's name of the model. pool: URLs of
    further servers that serve it. key: the remote server's. base: the model whose LoRA adapter the folder holds. copy:
    keep a copy of the folder under MODELS_DIR instead of using it where it is. license: read from the folder by
    default. on_server: the caller has no shell on this machine, so only folders and servers that models may come from
    are allowed. later: queues the conversion of a .gguf file, for a caller that does not wait for it
    (`hub.downloads.start`). on_progress: called with each step that takes long.
    """
    options = engine_args or {}
    rules.check_name(name, task)
    row = Model(name=name, license=license, notes=notes, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    rules.check_texts(row)
    if len(source) > MOST_SOURCE:
        raise ModelError(f"{source[:60]!r}… is too long: a source has at most {MOST_SOURCE} characters")
    if base:
        rules.check_adapter(row, base, task, options)
        if copy:
            raise ModelError("an adapter stays where it is: leave copy out")
        return _add_adapter(row, sources.folder(source, on_server), base)
    if source.startswith(("http://", "https://")):
        sources.check_remote_url(source, on_server)
        rules.check_options(EngineKind.REMOTE, options)
        rules.check_code(row, "a remote server decides that itself")
        row.kind, row.source, row.remote_name = EngineKind.REMOTE.value, source.rstrip("/"), remote_name
        row.private_address = not on_server
        row.pool = rules.check_pool(row, pool or [], on_server)
        row.key_secret = rules.sealed_key(row, key)
        return register(row, task or Task.CHAT, options)
    rules.sealed_key(row, key)
    if remote_name or pool:
        given = f"a remote name ({remote_name}) is" if remote_name else "further addresses (pool) are"
        raise ModelError(f"{given} only for a model on a remote server, and {source!r} is not one: leave it out")
    if source == "scripted:":
        row.kind = EngineKind.SCRIPTED.value
        rules.check_code(row, "a scripted model has no files")
        allowed.check(row)
        rules.check_options(EngineKind.SCRIPTED, options, on_server)
        return register(row, task or Task.CHAT, options)
    if "://" in source or source.startswith("scripted:"):
        raise ModelError(f"unknown kind of source {source!r}: {SOURCES}")
    allowed.check(row)
    options = rules.check_options(EngineKind.VLLM, options)
    path = sources.folder(source, on_server)
    if later and path.suffix.lower() == ".gguf" and path.is_file():
        return _convert_later(row, path, task, options, later)
    return _add_local(row, path, task, options, copy, on_progress)


def edit(model: Model, *, on_server: bool = True, **changes: Any) -> Model:
    """Change some of EDITABLE, or the `key` of its remote server (empty: none). Returns the changed model. Raises
    ModelError; then nothing has changed."""
    key = changes.pop("key", None)
    with transaction.atomic():
        row = Model.objects.select_for_update().filter(pk=model.pk).first()
        if row is None:
            raise ModelError(f"the model {model.name} has been removed")
        checked = rules.check_changes(row, on_server=on_server, **changes)
        if key is not None:
            checked["key_secret"] = rules.sealed_key(row, key)
        if any(name in checked and checked[name] != getattr(row, name) for name in CHECKED_AGAIN):
            checked |= {"checked_at": None, "check_error": "", "server_asked_at": None, **NO_FAILURE}
        Model.objects.filter(pk=row.pk).update(**checked)
        passed_on = {name: checked[name] for name in ("task", "context_length") if name in checked}
        if passed_on:
            row.adapters.update(**passed_on)
    return Model.objects.select_related("base").get(pk=row.pk)


def register(row: Model, task: str, options: dict[str, Any]) -> Model:
    """Make the row of a model that has passed the rules. Raises ModelError when its name was taken since."""
    row.task, row.engine_args = task, options
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        if row.base and not Model.objects.filter(pk=row.base.pk).exists():
            raise ModelError(f"the base {row.base.name} has just been removed") from None
        raise rules.taken(row.name) from None
    return row


def _add_adapter(row: Model, folder: Path, base: Model) -> Model:
    row.base, row.kind, row.source = base, base.kind, str(folder)
    for name, value in rules.examine_adapter(folder, base).items():
        setattr(row, name, value)
    return register(row, row.task, {})


def _add_local(
    row: Model, path: Path, task: str | None, options: dict[str, Any], copy: bool, on_progress: Progress
) -> Model:
    if path.is_dir() and adapter_folders.is_adapter(path):
        raise ModelError(f"{path} is an adapter, not a whole model: name its base (--base)")
    if path.is_dir():
        facts = examine(path, task, options, row.allow_pickle)
        if not copy:
            return _register_local(row, path, options, facts)
    elif not path.exists():
        raise ModelError(f"{path} does not exist: {SOURCES}")
    elif path.suffix.lower() != ".gguf" or not path.is_file():  # a pipe, for example, could be read without end
        raise ModelError(f"{path} is a file but not a .gguf file: give the folder that the model's config.json is in")
    folder = _free_folder(row)
    with made_folders.lock(folder) as held:
        maker = made_folders.copied if path.is_dir() else made_folders.converted
        made_folders.make(folder, path, maker, held, on_progress)
        try:
            return _register_local(row, folder, options, examine(folder, task, options, row.allow_pickle))
        except ModelError:
            if not Model.objects.filter(source=str(folder)).exists():
                made_folders.discard(folder)
            raise


def _convert_later(
    row: Model, path: Path, task: str | None, options: dict[str, Any], later: Callable[[Model], object]
) -> Model:
    _free_folder(row)
    row.source, row.state = str(path), ModelState.DRAFT
    with transaction.atomic():
        register(row, task or Task.CHAT, options)
        later(row)
    return row


def _free_folder(row: Model) -> Path:
    """The path of our own folder for a model of this name. Raises ModelError when another model has it."""
    folder = made_folders.path_of(row.name)
    if other := Model.objects.filter(source=str(folder)).first():
        raise ModelError(f"{folder} is the folder of {other.name}: choose another name than {row.name}")
    return folder


def _register_local(row: Model, folder: Path, options: dict[str, Any], facts: ModelFacts) -> Model:
    row.source, row.size_bytes, row.context_length = str(folder), facts.size_bytes, facts.context_length
    row.license = row.license or facts.license
    return register(row, facts.task, options)
