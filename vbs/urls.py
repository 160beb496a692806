"""Every address of the server."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path, re_path
from drf_spectacular.views import SpectacularJSONAPIView
from rest_framework.request import Request
from rest_framework.views import APIView

from batches.api import views as batches
from models_registry.api import models, operations, registry, server
from models_registry.api.interactive import Interactive
from vbs import metrics
from vbs.openai import routes
from vbs.openai.errors import NotFound

handler400 = "vbs.http.error_pages.bad_request"
handler403 = "vbs.http.error_pages.forbidden"
handler404 = "vbs.http.error_pages.not_found"
handler500 = "vbs.http.error_pages.server_error"


def health(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"status": "ok"})


class Unknown(APIView):
    """Answers 404 for every other address below /v1/."""

    authentication_classes = []
    permission_classes = []
    schema = None

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        raise NotFound(routes.unknown_route_message(request), code="unknown_route")


urlpatterns = [
    path("v1/files", batches.Files.as_view()),
    path("v1/files/<str:file_id>", batches.FileDetail.as_view()),
    path("v1/files/<str:file_id>/content", batches.FileContent.as_view()),
    path("v1/uploads", batches.Uploads.as_view()),
    path("v1/uploads/<str:upload_id>/parts", batches.UploadParts.as_view()),
    path("v1/uploads/<str:upload_id>/complete", batches.UploadCompletion.as_view()),
    path("v1/uploads/<str:upload_id>/cancel", batches.UploadCancellation.as_view()),
    path("v1/batches", batches.Batches.as_view()),
    path("v1/batches/<str:batch_id>", batches.BatchDetail.as_view()),
    path("v1/batches/<str:batch_id>/cancel", batches.BatchCancellation.as_view()),
    path("v1/batches/<str:batch_id>/retry", batches.BatchRetry.as_view()),
    path("v1/batches/<str:batch_id>/results", batches.BatchResults.as_view()),
    path("v1/batches/<str:batch_id>/errors", batches.BatchErrorLines.as_view()),
    path("v1/batches/<str:batch_id>/logs", batches.BatchLogs.as_view()),
    *(
        path(route.removeprefix("/"), Interactive.as_view(path=route.removeprefix("/v1")))
        for route in routes.INTERACTIVE
    ),
    path("v1/queue", batches.Queue.as_view()),
    path("v1/models", models.Models.as_view()),
    path("v1/models/<path:name>", models.ModelDetail.as_view()),
    # Actions on a model come before the model itself: a model's name may have slashes, but ends with none of these.
    path("v1/registry/models", registry.RegistryModels.as_view()),
    path("v1/registry/models/<path:name>/fetch", registry.ModelFetch.as_view()),
    path("v1/registry/models/<path:name>/pause", registry.ModelPause.as_view()),
    path("v1/registry/models/<path:name>/resume", registry.ModelResume.as_view()),
    path("v1/registry/models/<path:name>/cancel", registry.ModelCancel.as_view()),
    path("v1/registry/models/<path:name>/retry", registry.ModelRetry.as_view()),
    path("v1/registry/models/<path:name>/plan", registry.ModelPlan.as_view()),
    path("v1/registry/models/<path:name>/fit", registry.ModelFit.as_view()),
    path("v1/registry/models/<path:name>/measurements", registry.ModelMeasurements.as_view()),
    path("v1/registry/models/<path:name>/load", operations.ModelLoad.as_view()),
    path("v1/registry/models/<path:name>/unload", operations.ModelUnload.as_view()),
    path("v1/registry/models/<path:name>/test", operations.ModelTest.as_view()),
    path("v1/registry/models/<path:name>/benchmark", operations.ModelBenchmark.as_view()),
    path("v1/registry/models/<path:name>/tune", operations.ModelTune.as_view()),
    path("v1/registry/models/<path:name>", registry.RegistryModelDetail.as_view()),
    path("v1/registry/operations", operations.Operations.as_view()),
    path("v1/registry/operations/<str:operation_id>", operations.OperationDetail.as_view()),
    path("v1/registry/operations/<str:operation_id>/cancel", operations.OperationCancellation.as_view()),
    path("v1/registry/operations/<str:operation_id>/keep", operations.OperationKeep.as_view()),
    path("v1/registry/aliases", registry.Aliases.as_view()),
    path("v1/registry/aliases/<path:name>", registry.AliasDetail.as_view()),
    path("v1/registry/demo-models/<path:name>", server.DemoModels.as_view()),
    path("v1/registry/tokens/<path:name>", server.Tokens.as_view()),
    path("v1/registry/leftovers", server.Leftovers.as_view()),
    path("v1/registry/leftovers/<path:name>", server.LeftoverDetail.as_view()),
    path("v1/registry/fit", server.FolderFit.as_view()),
    path("v1/registry/paste", registry.Paste.as_view()),
    path("", include("vbs.pages.urls")),
    path("", include("vbs.help.urls")),
    path("", include("vbs.accounts.pages.urls")),
    path("", include("models_registry.pages.urls")),
    path("", include("batches.pages.urls")),
    path("", include("vbs.configuration.pages.urls")),
    path("health", health),
    path("ready", models.Ready.as_view()),
    path("metrics", metrics.Metrics.as_view()),
    path("openapi.json", SpectacularJSONAPIView.as_view(), name="openapi"),
    path("admin/", admin.site.urls),
    path("", include("vbs.http.redirects")),
    re_path(r"^v1(/.*)?$", Unknown.as_view()),
]
