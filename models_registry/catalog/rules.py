"""The rules for models: names, tasks, options, adapters, prices. Every way to add or change a model checks them."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError

from models_registry import remote_keys
from models_registry.catalog import adapter_folders, allowed, sources
from models_registry.catalog.folders import ModelError, Taken, examine
from models_registry.engine import options as engine_options
from models_registry.engine.options import OptionError
from models_registry.engine.scripted import start
from models_registry.engine.server import flags
from models_registry.engine.spec import EngineKind
from models_registry.models import READING, Alias, Model, ModelState, Task
from vbs.places import PROGRAM

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}")
OPTION = re.compile(r"[a-z][a-z0-9.-]*")
MOST_NOTES = 20_000  # characters
MOST_URL = 900  # characters
# The API's addresses end in these words, after the name of a model.
VERBS = {
    *("fetch", "plan", "pause", "resume", "cancel", "retry"),
    *("load", "unload", "test", "benchmark", "fit", "measurements"),
}
PRICES = ("input_price", "output_price")  # of a million tokens
MOST_ADDRESSES = 32  # of one remote model
ABOUT = ("license", "notes", "trust_remote_code", "allow_pickle")
EDITABLE = ("task", "engine_args", "pool", *ABOUT, "hub_token", *PRICES)


def check_name(name: str, task: str | None = None) -> None:
    """Raises ModelError unless a new model can have this name, and this task."""
    if not NAME.fullmatch(name) or ".." in name:
        raise ModelError(
            f"{name!r} cannot be a model's name: use 1 to 200 letters, digits and . _ : / -, "
            "a letter or digit first, and no '..'"
        )
    if "/" in name and (verb := name.rpartition("/")[2]) in VERBS:
        raise ModelError(f"{name!r} cannot be a model's name: the API's own addresses end in /{verb}. Choose another")
    if task is not None:
        _check_task(task)
    if Model.objects.filter(name=name).exists():
        raise taken(name)
    if alias := Alias.objects.select_related("model").filter(name=name).first():
        raise Taken(f"{name} is an alias of {alias.model}: choose another name, or remove the alias first")


def check_options(kind: EngineKind, options: dict[str, Any], on_server: bool = True) -> dict[str, Any]:
    """The engine options as this kind of engine takes them. Raises ModelError.

    on_server: they come over the network, so those that reach files are refused.
    """
    if not isinstance(options, dict):
        raise ModelError(f"engine options must be a JSON object, not {str(options)[:60]!r}")
    if kind is EngineKind.VLLM:
        try:
            return engine_options.check(options)
        except OptionError as error:
            raise ModelError(str(error)) from error
    if kind is EngineKind.REMOTE and options:
        raise ModelError(f"a remote server sets its engine options itself: leave out {', '.join(sorted(options))}")
    for option in options:
        if not OPTION.fullmatch(option):
            raise ModelError(f"{option!r} cannot be an engine option: give its long name, without dashes before it")
        if option in engine_options.OURS:
            raise ModelError(f"the engine option {option} is set by this server: leave it out")
        if option in start.FILE_OPTIONS and on_server:
            raise ModelError(
                f"the engine option {option} of a scripted model reaches files of this machine: set it with "
                f"'{PROGRAM} model' there"
            )
    try:
        start.check(options, flags(options))
    except start.WrongOptions as error:
        raise ModelError(str(error)) from error
    return options


def check_pool(row: Model, pool: Any, on_server: bool) -> list[str]:
    """The URLs of further servers of a remote model. Raises ModelError unless they keep the rules of its source.

    on_server: they come over the network. What may have a private address was added on this machine, so its other
    addresses too are entered there: a name may stand for another address later.
    """
    if not isinstance(pool, list) or not all(isinstance(url, str) for url in pool):
        raise ModelError(f"further addresses must be a list of URLs, not {str(pool)[:60]!r}")
    if pool and row.kind != EngineKind.REMOTE:
        raise ModelError(f"further addresses (pool) are only for a model on a remote server, and {row.name} is not one")
    if len(pool) >= MOST_ADDRESSES:
        raise ModelError(f"a remote model has at most {MOST_ADDRESSES} addresses, and these are {len(pool) + 1}")
    if pool and on_server and row.private_address and not settings.VBS_PRIVATE_URLS:
        raise ModelError(
            f"{row.name} may have private addresses, so further ones are entered on the server: "
            f"'{PROGRAM} model edit {row.name} --pool URL' there"
        )
    urls = [row.source]
    for url in pool:
        if len(url) > MOST_URL:
            raise ModelError(f"{url[:60]!r}… is too long: a URL has at most {MOST_URL} characters")
        sources.check_remote_url(url, on_server=not row.private_address)
        if (plain := url.rstrip("/")) in urls:
            raise ModelError(f"{plain} is there twice: give each address of {row.name} once")
        urls.append(plain)
    return urls[1:]


def sealed_key(row: Model, key: str) -> str:
    """What is kept of the key for a model's remote server; empty for none. Raises ModelError, without the key."""
    if key and row.kind != EngineKind.REMOTE:
        raise ModelError(f"a key is only for a model on a remote server, and {row.name} is not one: leave it out")
    try:
        return remote_keys.seal(key)
    except remote_keys.WrongKey as error:
        raise ModelError(str(error)) from None


def check_texts(row: Model) -> None:
    if len(row.license) > 100 or not row.license.isprintable():
        raise ModelError(f"{row.license[:60]!r} cannot be a licence: give its name in at most 100 printable characters")
    if len(row.notes) > MOST_NOTES or "\0" in row.notes:
        raise ModelError(f"notes have at most {MOST_NOTES:,} characters, and no NUL; these have {len(row.notes):,}")


def check_code(row: Model, because: str) -> None:
    for name in ("trust_remote_code", "allow_pickle"):
        if getattr(row, name):
            raise ModelError(f"{name} is for a model whose files are here, and {because}: leave it out")


def check_adapter(row: Model, base: Model, task: str | None, options: dict[str, Any]) -> None:
    """Raises ModelError for settings that an adapter cannot have, and for a base that cannot have an adapter."""
    if task or options:
        raise ModelError(f"an adapter has the {'task' if task else 'options'} of its base: leave that out")
    check_code(row, "an adapter has the setting of its base")
    check_base(base)


def check_base(base: Model) -> None:
    """Raises ModelError unless adapters of this model could be served."""
    if base.base or base.kind == EngineKind.REMOTE:
        kind = "an adapter" if base.base else "on a remote server"
        raise ModelError(f"{base.name} is {kind}: an adapter's base is a model that runs here")
    if base.state != ModelState.READY:
        raise ModelError(f"the files of {base.name} are not here ({base.state}): fetch it, then add its adapter")
    if base.task in READING:
        raise ModelError(f"{base.name} is for {base.task}: adapters are served for chat and completion models")


def examine_adapter(folder: Path, base: Model) -> dict[str, Any]:
    """The fields of an adapter that come from its folder and its base. Raises ModelError when it cannot be served."""
    facts = adapter_folders.examine(folder, Path(base.source) if base.kind == EngineKind.VLLM else None)
    most = base.engine_args.get("max-lora-rank")
    if most is not None and facts.rank > most:
        raise ModelError(
            f"the adapter's rank is {facts.rank}, and {base.name} is run with max-lora-rank {most}: "
            "raise or remove that option of the base"
        )
    return {
        "lora_rank": facts.rank,
        "size_bytes": facts.size_bytes,
        "context_length": base.context_length,
        "task": base.task,
    }


def check_changes(model: Model, *, on_server: bool = True, **changes: Any) -> dict[str, Any]:
    """The fields that `edit` writes: the changes, and what follows from them. Raises ModelError."""
    if odd := sorted(changes.keys() - set(EDITABLE)):
        raise ModelError(f"{odd[0]} of a model cannot be changed: only {', '.join(EDITABLE)} can")
    kept = (*EDITABLE, "name", "kind", "source", "state", "private_address")
    row = Model(**{name: getattr(model, name) for name in kept} | changes)
    _check_task(row.task)
    check_texts(row)
    changes |= {name: _price(changes[name]) for name in PRICES if name in changes}
    if changes.get("hub_token") and not model.hub_id:
        raise ModelError(f"{model.name} is not a model of the hub: leave out the access token")
    if "pool" in changes:
        changes["pool"] = check_pool(row, row.pool, on_server)
    if model.base:
        given = [name for name in ("task", "engine_args") if name in changes and changes[name] != vars(model)[name]]
        if given:
            raise ModelError(f"an adapter has the {given[0]} of its base {model.base.name}: change it there")
        check_code(row, "an adapter has the setting of its base")
        return changes
    if "engine_args" in changes:
        kind, options = EngineKind(row.kind), row.engine_args or {}
        changes["engine_args"] = row.engine_args = check_options(kind, options, on_server)
        _check_ranks(model, row.engine_args)
    if row.task in READING and (adapter := model.adapters.first()):
        raise ModelError(f"{model.name} has the adapter {adapter.name}, which is not for {row.task}: keep the task")
    if row.kind != EngineKind.VLLM:
        check_code(row, f"a {row.kind} model has no files here")
    if "engine_args" in changes or changes.get("trust_remote_code"):
        allowed.check(row)
    if row.kind != EngineKind.VLLM:
        return changes
    if row.state == ModelState.READY and changes.keys() & {"task", "engine_args", "allow_pickle"}:
        facts = examine(Path(row.source), row.task, row.engine_args, row.allow_pickle)
        changes["context_length"] = facts.context_length
    return changes


def _check_ranks(model: Model, options: dict[str, Any]) -> None:
    most = options.get("max-lora-rank")
    if most is not None and (adapter := model.adapters.filter(lora_rank__gt=most).first()):
        raise ModelError(
            f"max-lora-rank {most} is less than the rank of the adapter {adapter.name}, which is {adapter.lora_rank}: "
            "raise or leave out that option"
        )


def _price(given: Any) -> Decimal | None:
    if given is None:
        return None
    field = Model._meta.get_field("input_price")
    try:
        price: Decimal = field.clean(Decimal(str(given)), None)
    except (ArithmeticError, ValidationError):
        price = Decimal(-1)
    if price < 0:
        raise ModelError(
            f"{str(given)[:60]!r} cannot be a price: give the price of a million tokens, from 0 and below 100,000,000, "
            "with at most 4 decimals"
        )
    return price


def _check_task(task: str) -> None:
    if task not in Task.values:
        raise ModelError(f"unknown task {task!r}: it must be one of {', '.join(Task.values)}")


def taken(name: str) -> Taken:
    return Taken(f"there is a model {name} already: choose another name, or remove that model first")
