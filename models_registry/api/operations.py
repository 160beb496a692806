"""The routes of operations: they are asked for of a model, and shown, and cancelled. Every key may read."""

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from models_registry.api import operations_wire as wire
from models_registry.api.registry import CHANGES, RegistryView, find_model, read_flag
from models_registry.api.serializers import OperationAsk
from models_registry.gpu import operations
from models_registry.gpu.tuning.keep import keep
from models_registry.models import OPEN_OPERATIONS, Operation, OperationKind
from vbs.accounts.models import ApiKey
from vbs.accounts.shell import shell_of
from vbs.openai import idempotency
from vbs.openai.authentication import is_operator, project_of
from vbs.openai.checks import checked
from vbs.openai.docs import ERRORS, PAGING, schema_of
from vbs.openai.errors import Conflict, missing
from vbs.openai.pagination import choice, page


def asked_by(request: Request) -> str:
    if shell_of(request):
        return "manage.py"
    key = f" ({request.auth.name})" if isinstance(request.auth, ApiKey) else ""
    return f"{project_of(request)}{key}"


class QueuedOperation(RegistryView):
    """Queues one kind of operation."""

    kind: OperationKind

    @extend_schema(
        parameters=[idempotency.PARAMETER],
        request=OperationAsk,
        responses={202: schema_of(wire.OperationObject), **CHANGES},
    )
    @idempotency.idempotent
    def post(self, request: Request, name: str) -> Response:
        model = find_model(name)
        given = checked(OperationAsk(data=request.data))
        operation = operations.ask(
            self.kind,
            model,
            given.get("options"),
            priority=given.get("priority", 0),
            now=given["now"],
            asked_by=asked_by(request),
            projects=None if shell_of(request) else [project_of(request).pk],
        )
        self.record(f"model.{self.kind}", model.name)
        return Response(wire.operation_object(operation, for_operator=True), status=202)


class ModelLoad(QueuedOperation):
    kind = OperationKind.LOAD


class ModelUnload(QueuedOperation):
    kind = OperationKind.UNLOAD


class ModelTest(QueuedOperation):
    kind = OperationKind.TEST


class ModelBenchmark(QueuedOperation):
    kind = OperationKind.BENCHMARK


class ModelTune(QueuedOperation):
    kind = OperationKind.TUNE


class Operations(RegistryView):
    """The operations of all models. `state=open`: those that wait or run."""

    @extend_schema(
        parameters=[
            *PAGING,
            OpenApiParameter("model", str, description="Only operations of this model"),
            OpenApiParameter("state", str, enum=["all", "open"], description="open: only those that wait or run"),
            OpenApiParameter("log", bool, description="Add the log of each operation"),
        ],
        responses={200: schema_of(wire.OperationList), **ERRORS},
    )
    def get(self, request: Request) -> Response:
        query = request.query_params
        with_log = read_flag(request, "log")
        rows = Operation.objects.select_related("model").defer(*(() if with_log else ("log",)))
        if "model" in query:
            rows = rows.filter(model=find_model(query["model"]))
        if choice(query, "state", "all", ("all", "open")) == "open":
            rows = rows.filter(state__in=OPEN_OPERATIONS)
        trusted = is_operator(request)

        def item(row: Operation) -> wire.OperationObject:
            return wire.operation_object(row, trusted, with_log)

        return Response(page(rows, query, item, default=20, high=100, filters=["model", "state", "log"]))


def find_operation(operation_id: str) -> Operation:
    rows = Operation.objects.select_related("model")
    operation = None if "\0" in operation_id else rows.filter(pk=operation_id).first()
    if operation is None:
        raise missing("operation", operation_id)
    return operation


class OperationDetail(RegistryView):
    @extend_schema(responses={200: schema_of(wire.OperationObject), **ERRORS})
    def get(self, request: Request, operation_id: str) -> Response:
        return Response(wire.operation_object(find_operation(operation_id), is_operator(request)))


class OperationCancellation(RegistryView):
    @extend_schema(request=None, responses={200: schema_of(wire.OperationObject), **CHANGES})
    def post(self, request: Request, operation_id: str) -> Response:
        operation = find_operation(operation_id)
        if not operations.cancel(operation):
            raise Conflict(
                f"The operation '{operation.pk}' has ended already: its state is '{operation.state}'.", param="id"
            )
        self.record("operation.cancel", operation.pk, str(operation))
        return Response(wire.operation_object(operation, for_operator=True))


class OperationKeep(RegistryView):
    """Gives the model the fastest setting that a tuning has found, when it has ended."""

    @extend_schema(request=None, responses={200: schema_of(wire.OperationObject), **CHANGES})
    def post(self, request: Request, operation_id: str) -> Response:
        operation = find_operation(operation_id)
        found = keep(operation, lambda detail: self.record("model.edit", operation.model.name, detail))
        return Response(wire.operation_object(found, for_operator=True))
