"""/metrics for Prometheus, which needs a key. Apps register their own collectors with prometheus_client."""

from django.http import HttpResponse
from django_prometheus.exports import ExportToDjangoView
from rest_framework.request import Request
from rest_framework.views import APIView


class Metrics(APIView):
    schema = None

    def get(self, request: Request) -> HttpResponse:
        answer: HttpResponse = ExportToDjangoView(request)
        return answer
