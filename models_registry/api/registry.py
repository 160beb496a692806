"""The routes of the registry: models, their downloads, and aliases. Every key may read. `operations` has theirs.

Each route parses the request, calls one function of the catalog or the hub, and answers. RegistryView decides
who may change something and turns a ModelError into an answer.
"""

from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry.api import hub_wire, operations_wire
from models_registry.api import registry_wire as wire
from models_registry.api.serializers import AliasPut, ModelChange, ModelCreate, PasteRead
from models_registry.catalog import add, aliases, allowed, paste, remove, rules
from models_registry.catalog.folders import ModelError, Needed, Taken
from models_registry.catalog.paste import PasteError, Proposal
from models_registry.fit import judge
from models_registry.hub import downloads
from models_registry.models import (
    Alias,
    Download,
    HubToken,
    Measurement,
    MeasurementKind,
    Model,
    Worker,
)
from models_registry.serving.engines import Availability
from models_registry.speed import speeds
from vbs.accounts.models import ApiKey
from vbs.accounts.shell import Shell, shell_of
from vbs.configuration import audit
from vbs.database import timeouts
from vbs.openai import idempotency, ids
from vbs.openai.authentication import HasProject, IsOperator, is_operator
from vbs.openai.checks import checked
from vbs.openai.docs import ERRORS, PAGING, schema_of
from vbs.openai.errors import Conflict, Forbidden, InvalidRequest, NotFound
from vbs.openai.idempotency import IdempotentCreation
from vbs.openai.pagination import check_parameters, choice, page, unknown_after, whole_number
from vbs.openai.schema import Deleted, ErrorObject
from vbs.places import PROGRAM
from vbs.redaction import hide_locations

CHANGES = {**ERRORS, (403, "application/json"): schema_of(ErrorObject)}
MOST_CONTEXT = 2**31 - 1
FIT_OPTIONS = [
    OpenApiParameter(
        "context", int, description="How long each sequence is, in tokens; by default the model's context"
    ),
    OpenApiParameter("sequences", int, description="How many sequences run at once; by default 1"),
]
HUB_SECONDS = 120
UNLIMITED = 0


def as_api_error(error: Exception, for_operator: bool = True) -> Exception:
    """A ModelError or PasteError as the API's error; any other exception unchanged. Only operators see the folders and
    addresses of the server in the message."""
    if isinstance(error, Taken):
        return Conflict(str(error), code="model_exists")
    if isinstance(error, Needed):
        return Conflict(str(error), code="model_needed")
    if isinstance(error, ModelError | PasteError):
        return InvalidRequest(str(error) if for_operator else hide_locations(str(error)))
    return error


class RegistryView(APIView):
    permission_classes = [IsOperator]

    def handle_exception(self, exc: Exception) -> Response:
        return super().handle_exception(as_api_error(exc, is_operator(self.request)))

    def record(self, action: str, target: str, detail: str = "") -> None:
        """Write the change to the audit log, as the pages do."""
        if shell_of(self.request):
            audit.record_command(action, target, detail)
            return
        key = self.request.auth
        audit.record_key(key if isinstance(key, ApiKey) else None, action, target, detail)


def described_models() -> QuerySet[Model]:
    """All models with everything that `wire.registry_model` reads, in a fixed number of queries."""
    rows = Model.objects.described().select_related("base", "hub_token", "download")
    return rows.defer("download__files").prefetch_related("adapters")


def find_model(name: str) -> Model:
    """The model with this name, which may not be an alias. Raises NotFound."""
    model = None if "\0" in name else described_models().filter(name=name).first()
    if model is None:
        alias = None if "\0" in name else Alias.objects.select_related("model").filter(name=name).first()
        hint = f" It is an alias of '{alias.model.name}'." if alias else ""
        raise NotFound(f"The model '{ids.shown(name)}' does not exist.{hint}", param="model", code="model_not_found")
    return model


def model_object(model: Model, for_operator: bool = True) -> wire.RegistryModel:
    return wire.registry_model(
        find_model(model.name), Worker.objects.loaded(), speeds.of(model), for_operator=for_operator
    )


def read_flag(request: Request, name: str) -> bool:
    return choice(request.query_params, name, "false", ("true", "false")) == "true"


class RegistryModels(RegistryView):
    @extend_schema(responses={200: schema_of(wire.RegistryModelList), **ERRORS})
    def get(self, request: Request) -> Response:
        check_parameters(request.query_params)
        here, fast, availability = Worker.objects.loaded(), speeds.all(), Availability()
        trusted = is_operator(request)
        data = [
            wire.registry_model(model, here, fast.get(model.pk, speeds.UNKNOWN), availability, for_operator=trusted)
            for model in described_models()
        ]
        return Response({"object": "list", "data": data})

    @extend_schema(
        parameters=[idempotency.PARAMETER],
        request=ModelCreate,
        responses={200: schema_of(wire.CreatedModel), **CHANGES},
    )
    def post(self, request: Request) -> Response:
        creation = IdempotentCreation(request)
        if before := creation.answer():
            return before
        given, shell = checked(ModelCreate(data=request.data)), shell_of(request)
        _forbid_trust(request, given)
        found = paste.read(given["paste"]) if "paste" in given else None

        def create() -> Response:
            # A command waits while a folder is copied. Other clients wait for the hub or for a remote server.
            with timeouts.longer(UNLIMITED if shell else HUB_SECONDS):
                model = _add(_merged(found, given), shell)
                if given["fetch"] and model.hub_id:
                    downloads.start(model)  # in the same transaction: the client gets both or neither
                self.record("model.add", model.name, model.hub_id or model.source)
                _record_trust(self, model, given)
                return Response({**model_object(model), "refused": wire.refused_options(found)})

        return creation.make(create)


def _forbid_trust(request: Request, given: dict[str, Any]) -> None:
    """Code that comes with a model can do all that this server can, so a person has to allow it. Raises Forbidden."""
    if not shell_of(request) and given.get("trust_remote_code"):
        raise Forbidden(
            "No key may allow code that comes with a model. An admin can, on the model's page or on the server with "
            f"'{PROGRAM} model edit NAME --trust-remote-code', where VBS_TRUST_REMOTE_CODE allows it.",
            param="trust_remote_code",
        )


def _record_trust(view: RegistryView, model: Model, given: dict[str, Any]) -> None:
    """Write to the audit log who allowed or forbade a model's code."""
    if "trust_remote_code" in given and shell_of(view.request):
        view.record("model.trust", model.name, allowed.trust_words(model.trust_remote_code))


def _merged(found: Proposal | None, given: dict[str, Any]) -> dict[str, Any]:
    """The values that were given, and those of the pasted text for what was not given."""
    if found is None:
        return given
    place = {"hub_id": found.source} if found.on_hub else {"source": found.source}
    read = {"name": found.name, "task": found.task, "revision": found.revision, "file": found.file, **place}
    options = found.engine_args | given.get("engine_args", {})
    return {name: value for name, value in read.items() if value} | given | {"engine_args": options}


def _add(given: dict[str, Any], shell: Shell | None) -> Model:
    about = {name: given[name] for name in rules.EDITABLE if name in given}
    base = find_model(given["base"]) if given.get("base") else None
    if "hub_id" in given:
        if odd := [name for name in ("remote_name", "pool", "key", "copy") if given.get(name)]:
            raise ModelError(f"{odd[0]} does not apply to a model of the hub: leave it out")
        about.pop("pool", None)
        places = {name: given[name] for name in ("revision", "file") if given.get(name)}
        token = _find_token(given["token"]) if given.get("token") else None
        return downloads.add(given["name"], given["hub_id"], base=base, token=token, **places, **about)
    if odd := [name for name in ("revision", "file", "token") if given.get(name)]:
        raise ModelError(f"{odd[0]} applies only to a model of the hub: leave it out, or give hub_id instead of source")
    about |= {"remote_name": given.get("remote_name", ""), "key": given.get("key", ""), "base": base}
    if shell:
        return add.add(given["name"], given["source"], copy=given["copy"], on_progress=shell.progress, **about)
    if given["copy"]:
        raise ModelError(f"a folder is copied by a command on the server alone: '{PROGRAM} model add … --copy' there")
    return add.add(given["name"], given["source"], on_server=True, later=downloads.start, **about)


def _find_token(name: str) -> HubToken:
    if (token := HubToken.objects.filter(name=name).first()) is None:
        raise ModelError(f"there is no token {name!r}: '{PROGRAM} model token NAME', or the admin, keeps one")
    return token


class RegistryModelDetail(RegistryView):
    @extend_schema(responses={200: schema_of(wire.RegistryModel), **ERRORS})
    def get(self, request: Request, name: str) -> Response:
        return Response(model_object(find_model(name), is_operator(request)))

    @extend_schema(request=ModelChange, responses={200: schema_of(wire.RegistryModel), **CHANGES})
    def patch(self, request: Request, name: str) -> Response:
        model = find_model(name)
        changes = checked(ModelChange(data=request.data))
        _forbid_trust(request, changes)
        if "token" in changes:
            name = changes.pop("token")
            changes["hub_token"] = _find_token(name) if name else None
        edited = add.edit(model, on_server=not shell_of(request), **changes)
        self.record("model.edit", model.name, ", ".join(sorted(changes)))
        _record_trust(self, edited, changes)
        return Response(model_object(edited))

    @extend_schema(
        parameters=[
            OpenApiParameter("files", bool, description="Also delete its folder, if this server made it"),
            OpenApiParameter("dry_run", bool, description="Only say what would be deleted, and what needs the model"),
        ],
        responses={200: schema_of(wire.RemovalObject), **CHANGES},
    )
    def delete(self, request: Request, name: str) -> Response:
        files, dry_run = read_flag(request, "files"), read_flag(request, "dry_run")
        model = find_model(name)
        going = remove.preview(model) if files else remove.NOTHING
        if dry_run:
            return Response(wire.removal_object(model, going, remove.needed_by(model), deleted=False))
        remove.remove(model, files)
        self.record("model.remove", model.name, "with its files" if files else "")
        return Response(wire.removal_object(model, going, [], deleted=True))


class _DownloadAction(RegistryView):
    """One action on a download."""

    verb: str
    act: Callable[[Model], Download | None]

    @extend_schema(request=None, responses={200: schema_of(hub_wire.DownloadObject), **CHANGES})
    def post(self, request: Request, name: str) -> Response:
        model = find_model(name)
        type(self).act(model)
        self.record(f"model.{self.verb}", model.name)
        return Response(hub_wire.download_object(find_download(model), for_operator=True))


class ModelFetch(_DownloadAction):
    verb = "fetch"
    act = staticmethod(downloads.start)


class ModelPause(_DownloadAction):
    verb = "pause"
    act = staticmethod(downloads.pause)


class ModelResume(_DownloadAction):
    verb = "resume"
    act = staticmethod(downloads.resume)


class ModelCancel(_DownloadAction):
    verb = "cancel"
    act = staticmethod(downloads.cancel)


class ModelRetry(_DownloadAction):
    verb = "retry"
    act = staticmethod(downloads.retry)


def find_download(model: Model) -> Download:
    download = Download.objects.select_related("model").defer("files").filter(model=model).first()
    if download is None:
        raise NotFound(f"The model '{model.name}' has no download.", param="model", code="download_not_found")
    return download


class ModelPlan(RegistryView):
    """What a download of the model needs. Asks the hub."""

    @extend_schema(responses={200: schema_of(hub_wire.PlanObject), **ERRORS})
    def get(self, request: Request, name: str) -> Response:
        model = find_model(name)
        return Response(hub_wire.plan_object(model, downloads.plan(model)))


def read_fit_options(request: Request) -> tuple[int | None, int]:
    """The context that a model should fit with, or None for its own, and how many sequences at once."""
    query = request.query_params
    context = whole_number(query, "context", 0, 1, MOST_CONTEXT) or None
    return context, whole_number(query, "sequences", 1, 1, 1_000_000)


class ModelFit(RegistryView):
    @extend_schema(
        parameters=FIT_OPTIONS,
        responses={200: schema_of(wire.FitObject), **ERRORS},
    )
    def get(self, request: Request, name: str) -> Response:
        context, sequences = read_fit_options(request)
        model = find_model(name)
        return Response(wire.fit_object(model.name, judge.judge(model, context, sequences, ask_hub=True)))


class ModelMeasurements(RegistryView):
    @extend_schema(parameters=PAGING, responses={200: schema_of(operations_wire.MeasurementList), **ERRORS})
    def get(self, request: Request, name: str) -> Response:
        after = request.query_params.get("after", "")
        if after and not (after.isascii() and after.isdigit() and len(after) < 19):
            raise unknown_after(after)
        rows = Measurement.objects.select_related("model").filter(model=find_model(name))
        trusted = is_operator(request)
        if not trusted:  # measurements of batches would show what other projects run, and when
            rows = rows.exclude(kind=MeasurementKind.BATCH)
        return Response(
            page(
                rows,
                request.query_params,
                lambda row: operations_wire.measurement_object(row, trusted),
                default=20,
                high=100,
            )
        )


class Aliases(RegistryView):
    @extend_schema(responses={200: schema_of(wire.AliasList), **ERRORS})
    def get(self, request: Request) -> Response:
        check_parameters(request.query_params)
        rows = Alias.objects.select_related("model")
        return Response({"object": "list", "data": [wire.alias_object(alias) for alias in rows]})


def find_alias(name: str) -> Alias:
    alias = None if "\0" in name else Alias.objects.select_related("model").filter(name=name).first()
    if alias is None:
        raise NotFound(f"The alias '{ids.shown(name)}' does not exist.", param="alias", code="alias_not_found")
    return alias


class AliasDetail(RegistryView):
    @extend_schema(responses={200: schema_of(wire.AliasObject), **ERRORS})
    def get(self, request: Request, name: str) -> Response:
        return Response(wire.alias_object(find_alias(name)))

    @extend_schema(request=AliasPut, responses={200: schema_of(wire.AliasObject), **CHANGES})
    def put(self, request: Request, name: str) -> Response:
        model = find_model(checked(AliasPut(data=request.data))["model"])
        aliases.point(name, model)
        self.record("model.alias", f"{name} → {model.name}")
        return Response(wire.alias_object(find_alias(name)))

    @extend_schema(responses={200: schema_of(Deleted), **CHANGES})
    def delete(self, request: Request, name: str) -> Response:
        aliases.remove(find_alias(name).name)
        self.record("model.unalias", name)
        return Response({"id": name, "object": "registry.alias", "deleted": True})


class Paste(RegistryView):
    """Reads a pasted text. Every key may use it, for it changes nothing."""

    permission_classes = [HasProject]

    @extend_schema(request=PasteRead, responses={200: schema_of(wire.ProposalObject), **ERRORS})
    def post(self, request: Request) -> Response:
        return Response(wire.proposal_object(paste.read(checked(PasteRead(data=request.data))["text"])))
