"""Gauges that are read from the tables at each scrape. Only what is live is counted: old batches cost nothing."""

from collections.abc import Iterable, Iterator

from django.db.models import Count, Sum
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from batches.models import Batch


class BatchCollector(Collector):
    def describe(self) -> Iterable[GaugeMetricFamily]:
        return []  # so that registering asks nothing of the database

    def collect(self) -> Iterator[GaugeMetricFamily]:
        live = GaugeMetricFamily("vbs_batches", "Batches that have not ended", labels=["status"])
        for status, count in Batch.objects.live().order_by().values_list("status").annotate(Count("id")):
            live.add_metric([status], count)
        yield live
        yield GaugeMetricFamily(
            "vbs_batches_waiting", "Batches that wait for a GPU", value=Batch.objects.waiting().count()
        )
        sums = Batch.objects.running().aggregate(
            requests=Sum("requests_per_second"), tokens=Sum("tokens_per_second"), total=Sum("total"),
            completed=Sum("completed"), failed=Sum("failed"), in_flight=Sum("in_flight"), batches=Count("id"),
        )  # fmt: skip
        yield GaugeMetricFamily("vbs_batches_running", "Batches that workers have", value=sums["batches"])
        yield GaugeMetricFamily("vbs_requests_in_flight", "Of the running batches", value=sums["in_flight"] or 0)
        yield GaugeMetricFamily("vbs_requests_per_second", "Of the running batches", value=sums["requests"] or 0)
        yield GaugeMetricFamily("vbs_tokens_per_second", "Of the running batches", value=sums["tokens"] or 0)
        left = (sums["total"] or 0) - (sums["completed"] or 0) - (sums["failed"] or 0)
        yield GaugeMetricFamily("vbs_requests_left", "Of the running batches", value=left)


def register() -> None:
    REGISTRY.register(BatchCollector())
