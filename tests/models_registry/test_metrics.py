"""What /metrics says of workers, GPUs, models, downloads and operations: read from the tables, by nothing else."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from models_registry.gpu import health
from models_registry.metrics import RegistryCollector
from models_registry.models import Download, InteractiveUsage, Measurement, Model, Operation, Worker
from tests.models_registry.nvml import GIB, FakeGpu, FakeNvml
from vbs.accounts.models import Project

pytestmark = pytest.mark.django_db

QUERIES = 7


def scrape() -> dict[str, list[tuple[dict[str, str], float]]]:
    """As Prometheus reads it: labels and value of each sample, by the gauge's name."""
    registry = CollectorRegistry()
    registry.register(RegistryCollector())
    text = generate_latest(registry).decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        found[family.name] = [(dict(sample.labels), sample.value) for sample in family.samples]
        assert len({tuple(sorted(labels.items())) for labels, _ in found[family.name]}) == len(found[family.name])
    return found


def values(name: str, label: str) -> dict[str, float]:
    return {labels[label]: value for labels, value in scrape()[name]}


def worker(silent: float = 0, **fields: Any) -> Worker:
    """silent: seconds since its last sign of life."""
    given = {"cluster": "gpu", "hostname": "box", "pid": 7, "heartbeat_at": timezone.now() - timedelta(seconds=silent)}
    return Worker.objects.create(**given | fields)


def model(name: str, **fields: Any) -> Model:
    return Model.objects.create(name=name, kind="scripted", **fields)


def load(model: Model, minutes_ago: float, machine: str = "this one", **fields: Any) -> None:
    at = timezone.now() - timedelta(minutes=minutes_ago)
    Measurement.objects.create(model=model, at=at, **{"kind": "load", "machine": machine, "load_seconds": 9.5} | fields)


def test_interactive_requests_of_a_day() -> None:
    now, projects = timezone.now(), [Project.objects.create(name=name) for name in ("a", "b")]
    for project, hours in ((projects[0], 1), (projects[1], 2), (projects[1], 30)):
        at = now - timedelta(hours=hours)
        InteractiveUsage.objects.create(project=project, model="m", hour=at, requests=2, failed=1, output_tokens=5)
    assert values("vbs_interactive_requests_last_day", "model") == {"m": 4}
    assert values("vbs_interactive_failed_last_day", "model") == {"m": 2}
    assert values("vbs_interactive_output_tokens_last_day", "model") == {"m": 10}
    assert values("vbs_interactive_input_tokens_last_day", "model") == {"m": 0}


def test_the_gpus_of_a_worker() -> None:
    gpus = FakeGpu(used=30 * GIB, busy=50, celsius=61), FakeGpu(name="old", celsius=None, power=None)
    worker(health=health.read(FakeNvml(*gpus)))
    assert scrape()["vbs_gpu_memory_used_bytes"] == [
        ({"worker": "gpu@box:7", "device": "0", "name": "NVIDIA H200"}, 30 * GIB),
        ({"worker": "gpu@box:7", "device": "1", "name": "old"}, 0),
    ]
    assert values("vbs_gpu_memory_total_bytes", "device") == {"0": 140 * GIB, "1": 140 * GIB}
    assert values("vbs_gpu_utilization_ratio", "device") == {"0": 0.5, "1": 0}
    assert values("vbs_gpu_temperature_celsius", "device") == {"0": 61}, "what a card does not tell is no zero"
    assert values("vbs_gpu_power_watts", "device") == {"0": 75.5}
    assert values("vbs_gpu_power_limit_watts", "device") == {"0": 700, "1": 700}


def test_a_machine_without_a_gpu() -> None:
    reading = health.read(FakeNvml())
    worker(health=reading | {"utilization": 25.0})
    found = scrape()
    assert found["vbs_gpu_memory_used_bytes"] == []
    assert found["vbs_host_memory_used_bytes"] == [({"worker": "gpu@box:7"}, reading["memory_used"])]
    assert found["vbs_host_memory_total_bytes"] == [({"worker": "gpu@box:7"}, reading["memory_total"])]
    assert found["vbs_host_cpu_utilization_ratio"] == [({"worker": "gpu@box:7"}, 0.25)]


def test_the_dead_have_no_temperature() -> None:
    reading = health.read(FakeNvml(FakeGpu()))
    worker(pid=1, silent=100, health=reading)
    worker(pid=2, health={})
    worker(pid=3, cluster="io", health=reading)
    assert scrape()["vbs_gpu_temperature_celsius"] == []
    ages = values("vbs_worker_heartbeat_age_seconds", "worker")
    assert {name: round(age, -1) for name, age in ages.items()} == {"gpu@box:1": 100, "gpu@box:2": 0, "io@box:3": 0}


def test_one_sample_where_a_process_id_came_back() -> None:
    """Prometheus refuses a page that has a sample twice."""
    worker(health=health.read(FakeNvml(FakeGpu(celsius=50))), model_name="m")
    worker(silent=10, health=health.read(FakeNvml(FakeGpu(celsius=60))), model_name="m")
    found = scrape()
    assert [value for _, value in found["vbs_gpu_temperature_celsius"]] == [50]
    assert found["vbs_engine_loaded"] == [({"model": "m"}, 1)]
    assert len(found["vbs_worker_heartbeat_age_seconds"]) == 1


def test_loaded_models() -> None:
    worker(pid=1, model_name="a")
    worker(pid=2)
    worker(pid=3, model_name="b")
    assert values("vbs_engine_loaded", "model") == {"a": 1, "b": 1}


def test_remote_models_that_run() -> None:
    lane = {"model": "far", "window": 24, "in_flight": 20, "requests_per_second": 2.5}
    addresses = [{"url": "http://far.lan/v1", "state": state} for state in ("open", "lost")]
    worker(lanes=[lane | {"addresses": addresses}])
    worker(600, pid=8, lanes=[lane | {"model": "gone", "addresses": []}])
    names = ("window", "in_flight", "requests_per_second", "addresses_open")
    assert [values(f"vbs_lane_{name}", "model") for name in names] == [
        {"far": 24}, {"far": 20}, {"far": 2.5}, {"far": 1},
    ]  # fmt: skip
    assert "far.lan" not in str(scrape())


def test_models_by_state() -> None:
    for number, state in enumerate(("ready", "ready", "failed", "draft")):
        model(str(number), state=state)
    assert values("vbs_models", "state") == {"ready": 2, "failed": 1, "draft": 1}


def test_downloads_that_are_open() -> None:
    for state, done in (("running", 10), ("paused", 20), ("queued", 0), ("done", 99), ("failed", 5), ("cancelled", 5)):
        Download.objects.create(model=model(state), state=state, bytes_done=done, bytes_total=99)
    assert values("vbs_download_bytes", "model") == {"running": 10, "paused": 20, "queued": 0}
    assert values("vbs_download_size_bytes", "model") == {"running": 99, "paused": 99, "queued": 99}


def test_operations_that_are_open() -> None:
    tiny = model("tiny")
    for kind, state in (("load", "queued"), ("load", "queued"), ("test", "running"), ("test", "succeeded")):
        Operation.objects.create(kind=kind, model=tiny, state=state)
    assert scrape()["vbs_operations"] == [
        ({"kind": "load", "state": "queued"}, 2),
        ({"kind": "test", "state": "running"}, 1),
    ]


def test_loads_and_swaps_of_the_last_hour() -> None:
    a, b, c = model("a"), model("b"), model("c")
    load(c, minutes_ago=500, load_seconds=70)
    load(a, minutes_ago=90)
    load(a, minutes_ago=50)  # again: no swap
    load(b, minutes_ago=40)
    load(c, minutes_ago=35, machine="another one")  # its first that is known of
    load(b, minutes_ago=30, load_seconds=12)
    load(a, minutes_ago=10, load_seconds=None)
    load(b, minutes_ago=5, kind="benchmark", load_seconds=1)
    assert values("vbs_model_loads_last_hour", "model") == {"a": 2, "b": 2, "c": 1}
    assert scrape()["vbs_model_swaps_last_hour"] == [({}, 2)]
    assert values("vbs_model_load_seconds", "model") == {"a": 9.5, "b": 12, "c": 9.5}


def test_nothing_is_there_yet() -> None:
    found = scrape()
    assert found["vbs_model_swaps_last_hour"] == [({}, 0)]
    assert sum(map(len, found.values())) == 1


def test_a_scrape_asks_a_fixed_number_of_questions(django_assert_num_queries: Any) -> None:
    for number in range(5):
        one = model(str(number))
        Download.objects.create(model=one)
        Operation.objects.create(kind="load", model=one)
        load(one, minutes_ago=number)
        worker(pid=number, health=health.read(FakeNvml(FakeGpu())), model_name=one.name)
    with django_assert_num_queries(QUERIES):
        scrape()
