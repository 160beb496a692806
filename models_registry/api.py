"""The routes of models, and whether the server is ready."""

import uuid

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import DatabaseError
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import aliases
from models_registry.gpu import STALE
from models_registry.models import Model, Worker
from models_registry.wire import model_object
from vbs.openai import schema
from vbs.openai.docs import ERRORS, of
from vbs.openai.errors import NotFound


def loaded() -> set[str]:
    """Names of models, and the engines' names of adapters."""
    fresh = timezone.now() - STALE
    workers = Worker.objects.filter(heartbeat_at__gt=fresh).exclude(model_name="").values_list("model_name", "adapters")
    return {name for model, adapters in workers for name in (model, *adapters)}


class Models(APIView):
    @extend_schema(responses={200: of(schema.ModelList), **ERRORS})
    def get(self, request: Request) -> Response:
        here = loaded()
        return Response({"object": "list", "data": [model_object(model, here) for model in Model.objects.described()]})


class ModelDetail(APIView):
    @extend_schema(responses={200: of(schema.ModelObject), **ERRORS})
    def get(self, request: Request, name: str) -> Response:
        model = None if "\0" in name else aliases.resolve(name)
        if model is None:
            raise NotFound(f"The model '{name[:100]}' does not exist.", param="model", code="model_not_found")
        return Response(model_object(model, loaded()))


class Ready(APIView):
    """Each part with its state; 503 when one is not there."""

    authentication_classes = []
    permission_classes = []

    @extend_schema(operation_id="ready", responses={200: {"type": "object"}, 503: {"type": "object"}})
    def get(self, request: Request) -> Response:
        parts = {"database": "ok"}
        try:
            fresh = timezone.now() - STALE
            alive = set(Worker.objects.filter(heartbeat_at__gt=fresh).values_list("cluster", flat=True))
            for cluster in ("io", "gpu"):
                parts[f"{cluster}_worker"] = "ok" if cluster in alive else "no heartbeat"
        except DatabaseError:
            parts = {"database": "unreachable", "io_worker": "unknown", "gpu_worker": "unknown"}
        parts["storage"] = self._storage()
        ready = all(state == "ok" for state in parts.values())
        return Response({"status": "ready" if ready else "not ready", "parts": parts}, status=200 if ready else 503)

    def _storage(self) -> str:
        try:
            name = default_storage.save(f"probe/{uuid.uuid4().hex}", ContentFile(b"ok"))
            default_storage.delete(name)
        except Exception as error:  # a distant storage fails in many ways; each of them means: not ready
            return f"not writable: {type(error).__name__}"
        return "ok"
