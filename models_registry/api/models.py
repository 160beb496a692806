"""The routes /v1/models and /ready."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import readiness
from models_registry.api.wire import model_object
from models_registry.catalog import aliases, remove
from models_registry.catalog.folders import Needed
from models_registry.models import Model, Worker
from models_registry.serving.engines import Availability
from models_registry.speed import speeds
from vbs.openai import ids, schema
from vbs.openai.authentication import IsOperator, is_operator
from vbs.openai.docs import ERRORS, schema_of
from vbs.openai.errors import RETRY_SECONDS, Conflict, InvalidRequest, NotFound


class Models(APIView):
    @extend_schema(responses={200: schema_of(schema.ModelList), **ERRORS})
    def get(self, request: Request) -> Response:
        """Ignores every parameter: clients send various ones with this request."""
        here, fast, availability = Worker.objects.loaded(), speeds.all(), Availability()
        trusted = is_operator(request)
        data = [
            model_object(model, here, fast.get(model.pk, speeds.UNKNOWN), trusted, availability)
            for model in Model.objects.described()
        ]
        return Response({"object": "list", "data": data})


class ModelDetail(APIView):
    permission_classes = [IsOperator]

    @extend_schema(responses={200: schema_of(schema.ModelObject), **ERRORS})
    def get(self, request: Request, name: str) -> Response:
        model = None if "\0" in name else aliases.resolve(name)
        if model is None:
            raise NotFound(f"The model '{ids.shown(name)}' does not exist.", param="model", code="model_not_found")
        return Response(model_object(model, Worker.objects.loaded(), for_operator=is_operator(request)))

    @extend_schema(
        responses={200: schema_of(schema.Deleted), **ERRORS, (403, "application/json"): schema_of(schema.ErrorObject)}
    )
    def delete(self, request: Request, name: str) -> Response:
        """Deletes an adapter by its name, but not by an alias, as OpenAI deletes a fine-tuned model."""
        model = None if "\0" in name else Model.objects.select_related("base").filter(name=name).first()
        if model is None:
            raise NotFound(f"The model '{ids.shown(name)}' does not exist.", param="model", code="model_not_found")
        if not model.base:
            raise InvalidRequest(
                f"'{model.name}' is not an adapter: send DELETE /v1/registry/models/{model.name} to remove a whole "
                "model. With ?dry_run=true it only says what would be deleted.",
                param="model",
            )
        try:
            remove.remove(model)
        except Needed as error:
            raise Conflict(str(error), param="model", code="model_needed") from error
        return Response({"id": model.name, "object": "model", "deleted": True})


class Ready(APIView):
    """The state of each part of the server; 503 unless all are ok."""

    authentication_classes = []
    permission_classes = []

    @extend_schema(operation_id="ready", responses={200: {"type": "object"}, 503: {"type": "object"}})
    def get(self, request: Request) -> Response:
        parts = readiness.parts()
        ready = all(state == "ok" for state in parts.values())
        if ready:
            return Response({"status": "ready", "parts": parts})
        again = {"Retry-After": str(RETRY_SECONDS)}
        return Response({"status": "not ready", "parts": parts}, status=503, headers=again)
