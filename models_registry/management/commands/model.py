"""`manage.py model`: add models to the registry, look at them, take them out."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import filesizeformat

from models_registry import aliases, demo_models, fit, importer, model_folder, paste, room
from models_registry.engine import defaults
from models_registry.engine.spec import EngineKind
from models_registry.model_folder import ModelError
from models_registry.models import Model, Task


class Command(BaseCommand):
    help = "Models that requests can name."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

        add = actions.add_parser("add", help="register a model")
        add.add_argument("name", nargs="?", help="the name that requests will use")
        add.add_argument("source", nargs="?", help="a folder, a .gguf file, an http(s)://…/v1 URL, or scripted:")
        add.add_argument("--paste", metavar="TEXT", help=f"instead of these, {paste.UNDERSTOOD}")
        add.add_argument("--name", dest="chosen", metavar="NAME", help="with --paste, the name that requests will use")
        add.add_argument("--task", help=f"{', '.join(Task.values)}; guessed when left out")
        add.add_argument(
            "--arg",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="an option of the engine by its long name, e.g. max-model-len=2048 or enforce-eager; may be repeated",
        )
        add.add_argument("--base", help="the model that the folder is a LoRA adapter of")
        add.add_argument("--remote-name", default="", help="what the remote server calls the model, if not NAME")
        add.add_argument("--copy", action="store_true", help="copy the folder instead of using it where it is")

        demo = actions.add_parser("add-demo", help="fetch and register small models to try things with")
        demo.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(demo_models.DEMO_MODELS)} or all")

        listing = actions.add_parser("list", help="what is registered")
        listing.add_argument("--json", action="store_true", dest="as_json", help="as JSON")

        show = actions.add_parser("show", help="one model, as JSON")
        show.add_argument("name")

        alias = actions.add_parser("alias", help="let a name stand for a model, wherever a model's name can be used")
        alias.add_argument("alias", metavar="ALIAS", help="e.g. @production")
        to = alias.add_mutually_exclusive_group(required=True)
        to.add_argument("name", nargs="?", help="the model that it stands for from now on")
        to.add_argument("--remove", action="store_true", help="take the alias away")

        fits = actions.add_parser("fit", help="does a model fit into this machine's memory?")
        fits.add_argument("name", metavar="NAME_OR_FOLDER")
        fits.add_argument("--context", type=_positive, metavar="N", help="tokens; otherwise what the model is set to")
        fits.add_argument("--sequences", type=_positive, metavar="N", default=1, help="of that length at once; 1")
        fits.add_argument("--json", action="store_true", dest="as_json", help="as JSON")

        remove = actions.add_parser("remove", help="take a model out of the registry")
        remove.add_argument("name")
        remove.add_argument("--files", action="store_true", help="delete its folder too, if vbs has made it")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        try:
            getattr(self, f"_{action.replace('-', '_')}")(**options)
        except ModelError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("interrupted; what was not finished is taken back", returncode=130) from None

    def _add(
        self,
        name: str | None,
        source: str | None,
        paste: str | None,
        chosen: str | None,
        task: str | None,
        arg: list[str],
        remote_name: str,
        base: str | None,
        copy: bool,
        **_: Any,
    ) -> None:
        options = dict(map(_option, arg))
        if paste is not None:
            if source:
                raise CommandError("--paste says where the model is: leave out SOURCE")
            found = self._pasted(paste)
            name, source, task = chosen or name or found.name, found.source, task or found.task
            options = found.engine_args | options
        elif chosen:
            raise CommandError("--name is for --paste: give the name as the first argument")
        if not name or not source:
            raise CommandError("a name and a source are required, or --paste TEXT")
        model = importer.add(
            name,
            source,
            task,
            options,
            remote_name=remote_name,
            base=_find(base) if base else None,
            copy=copy,
            on_progress=self._progress,
        )
        self.stdout.write(_line(model))

    def _pasted(self, text: str) -> paste.Proposal:
        try:
            found = paste.read(text)
        except paste.PasteError as error:
            raise CommandError(str(error)) from error
        for _option_name, reason in found.refused:
            self._progress(f"not taken: {reason}")
        if found.on_hub:
            raise CommandError(
                f"{found.source} is on a hub, and fetching from a hub is not there yet: "
                f"fetch it yourself, and give the folder: manage.py model add {found.name} FOLDER"
            )
        return found

    def _add_demo(self, models: list[str], **_: Any) -> None:
        keys = list(demo_models.DEMO_MODELS) if "all" in models else models or ["smollm2"]
        if unknown := [key for key in keys if key not in demo_models.DEMO_MODELS]:
            choices = ", ".join(demo_models.DEMO_MODELS)
            raise CommandError(f"there is no demo model {unknown[0]!r}: choose from {choices}, all")
        for key in keys:
            model, new = demo_models.add(key, self._progress)
            self.stdout.write(_line(model) if new else f"{model.name} is already there")

    def _list(self, as_json: bool, **_: Any) -> None:
        models = Model.objects.described()
        if as_json:
            self.stdout.write(_json([_described(model) for model in models]))
        else:
            for model in models:
                self.stdout.write(_line(model))
            if not models:
                self.stderr.write("no models yet: try 'manage.py model add-demo'")

    def _show(self, name: str, **_: Any) -> None:
        self.stdout.write(_json(_described(_find(name))))

    def _alias(self, alias: str, name: str | None, remove: bool, **_: Any) -> None:
        if remove:
            aliases.remove(alias)
            self.stdout.write(f"{alias} is removed")
        else:
            assert name is not None
            before = aliases.point(alias, _find(name))
            self.stdout.write(f"{alias} stands for {name}" + (f", no longer for {before}" if before else ""))

    def _fit(self, name: str, context: int | None, sequences: int, as_json: bool, **_: Any) -> None:
        found = _judged(name, context, sequences)
        if as_json:
            content = {"model": name, **asdict(found)}
            content["need"]["total"] = found.need.total
            self.stdout.write(_json(content))
        else:
            self.stdout.write(f"{name} {found.text}")
            sizes = {
                "weights": found.need.weights,
                "KV cache": found.need.cache,
                "LoRA": found.need.lora,
                "working memory": found.need.working,
                "sum": found.need.total,
                f"room ({found.room.kind.upper()})": found.room.total,
            }
            for title, number in sizes.items():
                self.stdout.write(f"  {title:<15}{fit.size(number):>10}")

    def _remove(self, name: str, files: bool, **_: Any) -> None:
        importer.remove(_find(name), files)
        self.stdout.write(f"{name} is removed")

    def _progress(self, step: str) -> None:
        self.stderr.write(step, style_func=str)  # not in the colour of errors
        self.stderr.flush()


def _find(name: str) -> Model:
    if (model := Model.objects.filter(name=name).first()) is None:
        raise ModelError(f"there is no model {name!r}: 'manage.py model list' names those there are")
    return model


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _judged(name: str, context: int | None, sequences: int) -> fit.Fit:
    """A registered model, or a folder, as its engine would be started here. Raises ModelError."""
    model = aliases.resolve(name)
    if model is None:
        if not Path(name).is_dir():
            raise ModelError(f"{name!r} is neither a model ('manage.py model list' names those there are) nor a folder")
        model = Model(name=name, source=name)
    if model.base:
        raise ModelError(f"{name} is an adapter of {model.base.name}: ask for that one")
    if model.kind != EngineKind.VLLM:
        raise ModelError(f"{name} is a {model.kind} model: nothing of it runs here, so there is nothing to fit")
    if not model.source:
        raise ModelError(f"{name} has no folder yet: fetch it first")
    folder = Path(model.source)
    given = model.engine_args | ({"max-model-len": context} if context else {})
    options = defaults.options(given, model.task, model.source)
    try:
        shape = fit.shape(model_folder.config(folder))
        load = replace(room.load(options, shape.context), sequences=sequences)
        return fit.fit(shape, model_folder.parameters(folder), load, room.here(options))
    except fit.FitError as error:
        raise ModelError(f"{name}: {error}") from error


def _option(text: str) -> tuple[str, Any]:
    """KEY=VALUE with a JSON value where it is one, else a text; a bare KEY is a switch that is on."""
    key, given, value = text.partition("=")
    key = key.lstrip("-").replace("_", "-")
    if not given:
        return key, True
    try:
        return key, json.loads(value, parse_constant=_no_json)
    except ValueError:
        return key, value


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # whatever Python's parser thinks of NaN


def _described(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "kind": model.kind,
        "task": model.task,
        "source": model.source,
        "remote_name": model.remote_name,
        "engine_args": model.engine_args,
        "size_bytes": model.size_bytes,
        "context_length": model.context_length,
        "revision": model.revision or None,
        "base": model.base.name if model.base else None,
        "aliases": [alias.name for alias in model.aliases.all()],
        "created_at": model.created_at.isoformat(),
    }


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


def _line(model: Model) -> str:
    size = filesizeformat(model.size_bytes).replace("\xa0", " ") if model.size_bytes else "-"
    length = f"{model.context_length:,} tokens" if model.context_length else "-"
    names = ", ".join([model.name, *(alias.name for alias in model.aliases.all())])
    return f"{names:<28} {model.task:<11} {model.kind:<9} {size:>9} {length:>16}  {model.source}".rstrip()
