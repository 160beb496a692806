"""`manage.py model`: add models to the registry, look at them, take them out."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.template.defaultfilters import filesizeformat

from models_registry import demo_models, importer
from models_registry.model_folder import ModelError
from models_registry.models import Model, Task


class Command(BaseCommand):
    help = "Models that requests can name."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

        add = actions.add_parser("add", help="register a model")
        add.add_argument("name", help="the name that requests will use")
        add.add_argument("source", help="a folder, a .gguf file, an http(s)://…/v1 URL, or scripted:")
        add.add_argument("--task", help=f"{', '.join(Task.values)}; guessed when left out")
        add.add_argument(
            "--arg",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="an option of the engine by its long name, e.g. max-model-len=2048 or enforce-eager; may be repeated",
        )
        add.add_argument("--remote-name", default="", help="what the remote server calls the model, if not NAME")
        add.add_argument("--copy", action="store_true", help="copy the folder instead of using it where it is")

        demo = actions.add_parser("add-demo", help="fetch and register small models to try things with")
        demo.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(demo_models.DEMO_MODELS)} or all")

        listing = actions.add_parser("list", help="what is registered")
        listing.add_argument("--json", action="store_true", dest="as_json", help="as JSON")

        show = actions.add_parser("show", help="one model, as JSON")
        show.add_argument("name")

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
        self, name: str, source: str, task: str | None, arg: list[str], remote_name: str, copy: bool, **_: Any
    ) -> None:
        model = importer.add(
            name,
            source,
            task,
            dict(map(_option, arg)),
            remote_name=remote_name,
            copy=copy,
            on_progress=self._progress,
        )
        self.stdout.write(_line(model))

    def _add_demo(self, models: list[str], **_: Any) -> None:
        keys = list(demo_models.DEMO_MODELS) if "all" in models else models or ["smollm2"]
        if unknown := [key for key in keys if key not in demo_models.DEMO_MODELS]:
            choices = ", ".join(demo_models.DEMO_MODELS)
            raise CommandError(f"there is no demo model {unknown[0]!r}: choose from {choices}, all")
        for key in keys:
            model, new = demo_models.add(key, self._progress)
            self.stdout.write(_line(model) if new else f"{model.name} is already there")

    def _list(self, as_json: bool, **_: Any) -> None:
        models = Model.objects.all()
        if as_json:
            self.stdout.write(_json([_described(model) for model in models]))
        else:
            for model in models:
                self.stdout.write(_line(model))
            if not models:
                self.stderr.write("no models yet: try 'manage.py model add-demo'")

    def _show(self, name: str, **_: Any) -> None:
        self.stdout.write(_json(_described(_find(name))))

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
        "created_at": model.created_at.isoformat(),
    }


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)


def _line(model: Model) -> str:
    size = filesizeformat(model.size_bytes).replace("\xa0", " ") if model.size_bytes else "-"
    length = f"{model.context_length:,} tokens" if model.context_length else "-"
    return f"{model.name:<28} {model.task:<11} {model.kind:<9} {size:>9} {length:>16}  {model.source}".rstrip()
