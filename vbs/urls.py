"""Every address of the server."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerView
from rest_framework.request import Request
from rest_framework.views import APIView

from batches import api as batches
from models_registry import api as models
from vbs import metrics
from vbs.openai.errors import NotFound

handler400 = "vbs.openai.errors.bad_request"
handler404 = "vbs.openai.errors.not_found"
handler500 = "vbs.openai.errors.server_error"


def health(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"status": "ok"})


class Unknown(APIView):
    """Whatever else is asked for below /v1/."""

    authentication_classes = []
    permission_classes = []
    schema = None

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        raise NotFound(f"Unknown route: {request.method} {request.path}.", code="unknown_route")


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
    path("v1/queue", batches.Queue.as_view()),
    path("v1/models", models.Models.as_view()),
    path("v1/models/<path:name>", models.ModelDetail.as_view()),
    path("", RedirectView.as_view(url="/docs")),
    path("health", health),
    path("ready", models.Ready.as_view()),
    path("metrics", metrics.Metrics.as_view()),
    path("openapi.json", SpectacularJSONAPIView.as_view(), name="openapi"),
    path("docs", SpectacularSwaggerView.as_view(url_name="openapi")),
    path("admin/", admin.site.urls),
    re_path(r"^v1(/.*)?$", Unknown.as_view()),
]
