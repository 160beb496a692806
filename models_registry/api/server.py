"""The routes of demo models, tokens of the hub, unused folders, and whether the model in a folder would fit.

Mostly commands use them.
"""

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from models_registry.api import hub_wire
from models_registry.api import registry_wire as wire
from models_registry.api.registry import CHANGES, FIT_OPTIONS, RegistryView, model_object, read_fit_options
from models_registry.api.serializers import TokenPut
from models_registry.catalog import demo, remove, sources
from models_registry.catalog.folders import ModelError
from models_registry.fit import judge
from models_registry.hub import tokens
from models_registry.models import HubToken
from vbs.accounts.shell import shell_of
from vbs.openai import ids
from vbs.openai.authentication import IsOperatorAlways
from vbs.openai.checks import checked
from vbs.openai.docs import schema_of
from vbs.openai.errors import Forbidden, NotFound
from vbs.openai.pagination import check_parameters
from vbs.places import PROGRAM


class DemoModels(RegistryView):
    """Downloads a demo model and registers it, which takes a minute or more."""

    @extend_schema(request=None, responses={200: schema_of(wire.AddedDemo), **CHANGES})
    def post(self, request: Request, name: str) -> Response:
        if name not in demo.DEMO_MODELS:
            choices = ", ".join(demo.DEMO_MODELS)
            raise ModelError(f"there is no demo model {ids.shown(name)!r}: choose one of {choices}, all")
        shell, steps = shell_of(request), list[str]()
        model, new = demo.add(name, shell.progress if shell else steps.append)
        if new:
            self.record("model.add", model.name, model.source)
        return Response({**model_object(model), "new": new, "steps": steps})


class Tokens(RegistryView):
    """No answer contains a token's secret. Only admins keep tokens, as on the pages, so no key may."""

    @extend_schema(request=TokenPut, responses={200: schema_of(hub_wire.TokenObject), **CHANGES})
    def put(self, request: Request, name: str) -> Response:
        _check_admin(request)
        kept = tokens.keep(name, checked(TokenPut(data=request.data))["token"])
        self.record("token.keep", kept.name)
        return Response(hub_wire.token_object(kept))

    @extend_schema(responses={200: schema_of(hub_wire.DeletedToken), **CHANGES})
    def delete(self, request: Request, name: str) -> Response:
        _check_admin(request)
        token = None if "\0" in name else HubToken.objects.filter(name=name).first()
        if token is None:
            raise NotFound(f"There is no token '{ids.shown(name)}'.", param="token", code="token_not_found")
        gone = hub_wire.token_object(token)
        token.delete()
        self.record("token.remove", name)
        return Response({**gone, "deleted": True})


def _check_admin(request: Request) -> None:
    if not shell_of(request):
        raise Forbidden(
            "No key may keep or remove access tokens of the hub. An admin can, in the Database admin or on the "
            "server with "
            f"'{PROGRAM} model token NAME'."
        )


class Leftovers(RegistryView):
    permission_classes = [IsOperatorAlways]

    @extend_schema(responses={200: schema_of(hub_wire.LeftoverList), **CHANGES})
    def get(self, request: Request) -> Response:
        check_parameters(request.query_params)
        return Response({"object": "list", "data": [hub_wire.leftover_object(one) for one in remove.leftovers()]})


class LeftoverDetail(RegistryView):
    permission_classes = [IsOperatorAlways]

    @extend_schema(responses={200: schema_of(hub_wire.LeftoverObject), **CHANGES})
    def delete(self, request: Request, name: str) -> Response:
        found = next((one for one in remove.leftovers() if one.id == name), None)
        if found is None:
            raise NotFound(
                f"There is no unused folder '{ids.shown(name)}': GET /v1/registry/leftovers lists them.",
                param="id",
                code="leftover_not_found",
            )
        remove.clean(found)
        self.record("folder.remove", found.id)
        return Response(hub_wire.leftover_object(found))


class FolderFit(RegistryView):
    """Whether the model in a folder of the server would fit. The folder need not be registered."""

    permission_classes = [IsOperatorAlways]

    @extend_schema(
        parameters=[
            OpenApiParameter("folder", str, required=True, description="The path of the folder on the server"),
            *FIT_OPTIONS,
        ],
        responses={200: schema_of(wire.FitObject), **CHANGES},
    )
    def get(self, request: Request) -> Response:
        given, near = request.query_params.get("folder", ""), shell_of(request) is not None
        if not near and not given.startswith("/"):
            raise _no_folder(given)
        folder = sources.folder(given, on_server=not near)
        if not folder.is_dir():
            raise _no_folder(given)
        return Response(wire.fit_object(given, judge.judge_folder(folder, *read_fit_options(request))))


def _no_folder(given: str) -> NotFound:
    words = f"There is no folder '{ids.shown(given)}' on the server: give its path from /."
    return NotFound(words, param="folder", code="folder_not_found")
