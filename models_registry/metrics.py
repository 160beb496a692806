"""Gauges of workers, their GPUs and models, read from the tables at each scrape with a fixed number of queries."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta

from django.db.models import Count
from django.utils import timezone
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from models_registry.models import (
    OPEN_DOWNLOADS,
    OPEN_OPERATIONS,
    Download,
    Measurement,
    MeasurementKind,
    Model,
    Operation,
    Worker,
)
from models_registry.serving import usage

# A field of a reading (models_registry.gpu.health), its gauge, and the divisor that gives Prometheus' unit.
OF_GPUS = (
    ("memory_used", "vbs_gpu_memory_used_bytes", 1),
    ("memory_total", "vbs_gpu_memory_total_bytes", 1),
    ("utilization", "vbs_gpu_utilization_ratio", 100),
    ("temperature", "vbs_gpu_temperature_celsius", 1),
    ("power_watts", "vbs_gpu_power_watts", 1),
    ("power_limit_watts", "vbs_gpu_power_limit_watts", 1),
)
OF_HOSTS = (
    ("memory_used", "vbs_host_memory_used_bytes", 1),
    ("memory_total", "vbs_host_memory_total_bytes", 1),
    ("utilization", "vbs_host_cpu_utilization_ratio", 100),
)


HOUR = timedelta(hours=1)
MOST_LOADS = 1000  # measurements of loads that are read


class RegistryCollector(Collector):
    def describe(self) -> Iterable[GaugeMetricFamily]:
        return []  # so that registering does not query the database

    def collect(self) -> Iterator[GaugeMetricFamily]:
        # The last heartbeat comes last: a restarted container may have the process ids of its predecessor.
        workers = {str(worker): worker for worker in Worker.objects.order_by("heartbeat_at")}
        yield from _workers(workers)
        yield from _health(workers)
        yield from _models()
        yield from _loads()
        yield from _downloads()
        operations = GaugeMetricFamily("vbs_operations", "Operations that have not ended", labels=["kind", "state"])
        waiting = Operation.objects.filter(state__in=OPEN_OPERATIONS).order_by()
        for kind, state, count in waiting.values_list("kind", "state").annotate(Count("pk")):
            operations.add_metric([kind, state], count)
        yield operations
        yield from _interactive()


def _workers(workers: dict[str, Worker]) -> Iterator[GaugeMetricFamily]:
    age = GaugeMetricFamily(
        "vbs_worker_heartbeat_age_seconds", "Since a worker's last sign of life", labels=["cluster", "worker"]
    )
    loaded = GaugeMetricFamily("vbs_engine_loaded", "1 for the model that a worker has loaded", labels=["model"])
    for key, worker in workers.items():
        age.add_metric([worker.cluster, key], (timezone.now() - worker.heartbeat_at).total_seconds())
    for name in sorted({worker.model_name for worker in workers.values() if worker.model_name}):
        loaded.add_metric([name], 1)
    yield age
    yield loaded
    yield from _lanes(workers)


def _lanes(workers: dict[str, Worker]) -> Iterator[GaugeMetricFamily]:
    """Gauges of the remote models that run now, without their addresses."""
    labels = ["model"]
    window = GaugeMetricFamily("vbs_lane_window", "Requests that a remote model gets at once", labels=labels)
    in_flight = GaugeMetricFamily("vbs_lane_in_flight", "Requests that a remote model has now", labels=labels)
    rate = GaugeMetricFamily(
        "vbs_lane_requests_per_second", "That a remote model has answered over the last seconds", labels=labels
    )
    is_open = GaugeMetricFamily("vbs_lane_addresses_open", "Addresses that get requests", labels=labels)
    for worker in workers.values():
        for lane in worker.lanes if worker.alive else ():
            name = [lane["model"]]
            window.add_metric(name, lane["window"])
            in_flight.add_metric(name, lane["in_flight"])
            rate.add_metric(name, lane["requests_per_second"])
            is_open.add_metric(name, sum(one["state"] == "open" for one in lane["addresses"]))
    yield from (window, in_flight, rate, is_open)


def _health(workers: dict[str, Worker]) -> Iterator[GaugeMetricFamily]:
    """Gauges of live gpu workers only: an old reading would look like that of an idle GPU."""
    read = {
        key: worker.health
        for key, worker in workers.items()
        if worker.cluster == "gpu" and worker.health and worker.alive
    }
    for field, name, unit in OF_GPUS:
        gauge = GaugeMetricFamily(name, "Of a worker's GPU", labels=["worker", "device", "name"])
        for key, health in read.items():
            for number, device in enumerate(health["devices"]):
                if device[field] is not None:
                    gauge.add_metric([key, str(number), device["name"] or ""], device[field] / unit)
        yield gauge
    for field, name, unit in OF_HOSTS:
        gauge = GaugeMetricFamily(name, "Of the machine that a GPU's worker is on", labels=["worker"])
        for key, health in read.items():
            gauge.add_metric([key], health[field] / unit)
        yield gauge
    lost = GaugeMetricFamily(
        "vbs_engine_losses",
        "Engines that ended by themselves while idle, since the worker began",
        labels=["worker", "why"],
    )
    for key, health in read.items():
        for why in ("memory", "other"):
            lost.add_metric([key, why], health.get("losses", {}).get(why, 0))
    yield lost


def _models() -> Iterator[GaugeMetricFamily]:
    states = GaugeMetricFamily("vbs_models", "Registered models", labels=["state"])
    for state, count in Model.objects.order_by().values_list("state").annotate(Count("pk")):
        states.add_metric([state], count)
    yield states


def _loads() -> Iterator[GaugeMetricFamily]:
    """Loads of the last hour: only the newest measurements of a model are kept, so a count of all would not grow."""
    last = GaugeMetricFamily("vbs_model_load_seconds", "That a model's last load took", labels=["model"])
    measured = Measurement.objects.filter(kind=MeasurementKind.LOAD)
    newest = measured.exclude(load_seconds=None).order_by("model_id", "-at").distinct("model_id")
    for name, seconds in newest.values_list("model__name", "load_seconds"):
        last.add_metric([name], seconds)
    yield last
    loads: Counter[str] = Counter()
    swaps = 0
    loaded: dict[str, str] = {}  # by the machine
    since = timezone.now() - HOUR
    recent = measured.order_by("-at").values_list("model__name", "machine", "at")[:MOST_LOADS]
    for name, machine, at in reversed(recent):
        if at > since:
            loads[name] += 1
            swaps += loaded.get(machine, name) != name
        loaded[machine] = name
    counted = GaugeMetricFamily("vbs_model_loads_last_hour", "How often a model was loaded", labels=["model"])
    for name, count in loads.items():
        counted.add_metric([name], count)
    yield counted
    yield GaugeMetricFamily("vbs_model_swaps_last_hour", "Loads of another model than a machine's last", value=swaps)


def _interactive() -> Iterator[GaugeMetricFamily]:
    """Of the last 24 hours: older rows are deleted in time, so that a count of all would not grow."""
    found = usage.of_last_day_by_model()
    for name, words in (
        ("requests", "Interactive requests"),
        ("failed", "Of them, those without a whole answer"),
        ("input_tokens", "Tokens that they had read"),
        ("output_tokens", "Tokens that they had written"),
    ):
        gauge = GaugeMetricFamily(f"vbs_interactive_{name}_last_day", words, labels=["model"])
        for model, sums in sorted(found.items()):
            gauge.add_metric([model], sums[name])
        yield gauge


def _downloads() -> Iterator[GaugeMetricFamily]:
    done = GaugeMetricFamily("vbs_download_bytes", "That are here of a model that is being fetched", labels=["model"])
    total = GaugeMetricFamily("vbs_download_size_bytes", "All that is to be fetched of it", labels=["model"])
    going = Download.objects.filter(state__in=OPEN_DOWNLOADS)
    for name, here, all_of_it in going.values_list("model__name", "bytes_done", "bytes_total"):
        done.add_metric([name], here)
        total.add_metric([name], all_of_it)
    yield done
    yield total


def register() -> None:
    REGISTRY.register(RegistryCollector())
