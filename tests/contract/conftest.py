"""One system for all contract tests, with the scripted engine."""

from collections.abc import Iterator

import pytest

from tests.live import Live, live


@pytest.fixture(scope="package")
def vbs() -> Iterator[Live]:
    with live(VBS_COMPLETION_WINDOWS="24h,2s", VBS_MAX_FILE_MB="64", VBS_MAX_BATCH_MB="32") as running:
        running.add_scripted("scripted", **{"max-num-seqs": 32})
        running.add_scripted("slow", **{"max-num-seqs": 4, "latency-ms": 50})
        running.add_scripted("broken", **{"fail-start": "CUDA_out_of_memory:_no_room"})
        running.manage("model", "add", "vectors", "scripted:", "--task", "embedding")
        yield running


@pytest.fixture(scope="package")
def operator(vbs: Live) -> dict[str, str]:
    """The headers of somebody who may change the registry."""
    key = vbs.manage("create_api_key", "--project", "one", "--name", "operator", "--operator").split()[-1]
    return {"Authorization": f"Bearer {key}"}
