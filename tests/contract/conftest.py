"""One system for all contract tests, with the scripted engine and a hub on loopback."""

from collections.abc import Iterator
from typing import Any

import pytest

from models_registry.hub.scripted import ScriptedHub, serving
from tests.contract.described import with_errors
from tests.live import Live, live


@pytest.fixture(scope="package")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedHub]:
    """A hub without models: a test puts there what it fetches."""
    with serving(ScriptedHub(tmp_path_factory.mktemp("hub"))) as found:
        yield found


@pytest.fixture(scope="package")
def vbs(hub: ScriptedHub) -> Iterator[Live]:
    limits = {"VBS_COMPLETION_WINDOWS": "24h,2s", "VBS_MAX_FILE_MB": "64", "VBS_MAX_BATCH_MB": "32"}
    with live(**limits, VBS_HUB_URL=hub.url, NO_PROXY="127.0.0.1") as running:
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


@pytest.fixture(scope="package")
def smollm2(vbs: Live) -> str:
    """A scripted model that has the name of the demo's, which the documents and the reference name."""
    vbs.add_scripted("smollm2-135m")
    return "smollm2-135m"


@pytest.fixture(scope="package")
def document(vbs: Live) -> dict[str, Any]:
    """The description of the API as it is served."""
    return with_errors(vbs.http.get(f"{vbs.stack.url}/openapi.json").json())
