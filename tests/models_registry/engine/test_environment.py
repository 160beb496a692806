"""What the processes that run models get of our environment: what they need, and none of the server's secrets."""

import sys
from pathlib import Path

import psutil
import pytest

from models_registry.catalog import made_folders
from models_registry.engine import environment, server
from models_registry.engine.spec import EngineKind, EngineSpec
from tests.converter import stand_in

SECRETS = {
    "HF_TOKEN": "hf_x", "HF_HUB_TOKEN": "hf_x", "HUGGING_FACE_HUB_TOKEN": "hf_x", "VBS_REMOTE_KEY": "sk-x",
    "VBS_SECRET_KEY": "x", "DATABASE_URL": "postgresql://u:p@h/n", "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_ACCESS_KEY_ID": "x", "SENTRY_DSN": "https://x@y/1", "PGPASSWORD": "x", "VLLM_SECRET_KEY": "x",
    "DJANGO_SUPERUSER_PASSWORD": "x", "OPENAI_API_KEY": "x", "VLLM_S3_TOKEN": "x", "WHATEVER_IS_SET_TOMORROW": "x",
    "HTTPS_PROXY": "http://me:word@proxy:3128", "VBS_DATA_DIR_TOO": "x",
}  # fmt: skip
NEEDED = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "CUDA_VISIBLE_DEVICES": "0", "NCCL_P2P_DISABLE": "1", "HF_HOME": "/tmp/hf",
    "LD_LIBRARY_PATH": "/tmp/lib", "TMPDIR": "/tmp", "XDG_CACHE_HOME": "/tmp/cache", "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "no_proxy": "127.0.0.1", "http_proxy": "http://p:1",
    "VLLM_MAX_TOKENS_PER_EXPERT": "5",
}  # fmt: skip


@pytest.fixture
def ours(monkeypatch):
    for name, value in (SECRETS | NEEDED).items():
        monkeypatch.setenv(name, value)


def check(found):
    assert not SECRETS.keys() & found.keys()
    assert {name: found.get(name) for name in NEEDED} == NEEDED
    assert {"PATH", "HOME"} <= found.keys()


def test_what_is_passed_on(ours):
    check(environment.minimal())
    assert environment.minimal(VBS_MARK="x")["VBS_MARK"] == "x"


def test_an_engine_and_what_it_starts_have_no_secrets(ours, home):
    spec = EngineSpec(name="one", source="", kind=EngineKind.SCRIPTED)
    engine = server.start(spec, home, 30, lambda step: None)
    try:
        check(psutil.Process(engine.pid).environ())
    finally:
        server.stop(engine, home)


def test_several_api_servers_add_up_their_figures_in_a_folder_that_goes_with_the_engine(ours, tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/somebody/elses")
    assert "PROMETHEUS_MULTIPROC_DIR" not in server._environment(tmp_path, {}, sleeps=False)
    for _ in range(2):
        found = server._environment(tmp_path, {"api-server-count": 2}, sleeps=False)
        folder = Path(found["PROMETHEUS_MULTIPROC_DIR"])
        assert folder.parent == tmp_path and not list(folder.iterdir())
        (folder / "counter_7.db").write_text("of an engine before")
    assert found["VLLM_LOG_STATS_INTERVAL"] == "600"
    monkeypatch.setenv("VLLM_LOG_STATS_INTERVAL", "10")
    assert server._environment(tmp_path, {}, sleeps=False)["VLLM_LOG_STATS_INTERVAL"] == "10", "as somebody has set it"


def test_neither_has_what_converts_a_file(ours, tmp_path, monkeypatch):
    """The converter is another program here, which tells what it was given."""
    told = tmp_path / "told"
    stand_in(tmp_path / "code").write_text(f"open({str(told)!r}, 'wb').write(open('/proc/self/environ', 'rb').read())")
    monkeypatch.setattr("django.conf.settings.BASE_DIR", tmp_path / "code")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with (tmp_path / "lock").open("w") as lock:
        made_folders.converted(tmp_path / "x.gguf", tmp_path, lock.fileno(), lambda step: None)
    check(dict(one.split("=", 1) for one in told.read_text().split("\0") if one))


def test_all_that_starts_a_program_with_a_model_asks_for_it():
    """Who passes on os.environ as it is, passes on the secrets."""
    folder = Path(sys.modules["models_registry"].__file__).parent
    guilty = [path.name for path in folder.rglob("*.py") if "os.environ |" in path.read_text()]
    assert guilty == []
