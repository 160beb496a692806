"""A start that found too little memory is tried again with less; with real processes of the scripted engine."""

import json
import logging

import pytest

from models_registry.engine import control, defaults, reduced_start, server
from models_registry.engine.log_reasons import LoadError, Shortage, ShortageKind
from models_registry.engine.machine import leftovers
from models_registry.engine.resident import Resident
from models_registry.engine.spec import EngineKind, EngineSpec, StartResult


def spec(name="one", **args):
    given = {key.replace("_", "-"): value for key, value in args.items()}
    return EngineSpec(name, "", kind=EngineKind.SCRIPTED, args=tuple(sorted(given.items())))


@pytest.fixture
def resident(home):
    made = Resident(home, 30)
    yield made
    made.release()


def length(engine):
    return json.loads(control.request(engine.address, "GET", "/v1/models")[1])["data"][0]["max_model_len"]


def starts(home):
    return len(list(home.glob("engine-*.log")))


def test_what_fits_is_started_as_asked(resident, home):
    engine = resident.acquire(spec(max_model_len=2048, fits_context=2048), lambda words: None)
    assert engine.started.reduced == {} and engine.started.options["max-model-len"] == 2048
    assert 0 < engine.started.seconds < 30 and not engine.started.woken and starts(home) == 1


def test_a_shorter_context_as_long_as_the_engine_says(resident, home, caplog):
    said = []
    asked = spec(max_model_len=8192, fits_context=4200)
    with caplog.at_level(logging.WARNING):
        engine = resident.acquire(asked, said.append)
    words = "does not fit with max-model-len 8192 (needs 0.5 GiB, 0.26 GiB there): trying max-model-len 4096"
    assert words in said and f"Engine of one: it {words}" in caplog.text
    again = [each.startswith("attempt 2: ") for each in said]
    assert again == sorted(again) and again.count(True) and not again[said.index(words)], "the second start is told so"
    assert engine.spec == asked and engine.started.reduced == {"max-model-len": 4096} and length(engine) == 4096
    assert engine.started.options["max-model-len"] == 4096
    assert resident.acquire(asked, print) is engine and starts(home) == 2


def test_what_fitted_is_known_the_next_time(resident, home):
    asked = spec(max_model_len=8192, fits_context=4200)
    resident.acquire(asked, lambda words: None)
    resident.acquire(spec("two"), lambda words: None)
    before, said = starts(home), []
    engine = resident.acquire(asked, said.append)
    assert starts(home) == before + 1 and engine.started.reduced == {"max-model-len": 4096}
    assert not [words for words in said if "fit" in words]


def test_an_adopted_engine_still_says_what_its_start_took(resident, home):
    asked = spec(max_model_len=8192, fits_context=4200)
    first = resident.acquire(asked, lambda words: None)
    second = Resident(home, 30)
    second.recover()
    assert second.engine.started == first.started and second.engine.spec == asked
    second.release()
    assert second.acquire(asked, lambda words: None).started.reduced == first.started.reduced
    assert starts(home) == 3, "it knows what fitted"
    second.release()


@pytest.mark.parametrize("damage", ["of an earlier version", "of a later version", "of no sense"])
def test_a_kept_engine_that_does_not_say_what_its_start_took(resident, home, damage):
    resident.acquire(spec(), lambda words: None)
    path = home / "engine.json"
    kept = json.loads(path.read_text())
    if damage == "of an earlier version":
        del kept["started"]
    elif damage == "of a later version":
        kept["started"]["phase"] = "of the moon"
    else:
        kept["started"] = 7
    path.write_text(json.dumps(kept))
    found = server.adopt(None, home)
    assert (found.started == StartResult()) if damage == "of an earlier version" else (found is None)


def test_a_smaller_share_where_others_use_the_gpu(resident):
    engine = resident.acquire(spec(fits_share=0.5), lambda words: None)
    assert engine.started.reduced == {"gpu-memory-utilization": 0.5}


def test_first_the_context_then_the_share_where_nothing_is_said(resident, home):
    """Out of 0.92 with 1024 tokens, when 0.75 is to be had, and no numbers are."""
    said = []
    engine = resident.acquire(spec(max_model_len=1024, fits_share=0.75, no_numbers=True), said.append)
    assert engine.started.reduced == {"max-model-len": 256, "gpu-memory-utilization": 0.72}
    steps = [words.partition("trying ")[2] for words in said if "trying" in words]
    assert [step.split(",")[0] for step in steps] == [
        "max-model-len 512",
        "max-model-len 256",
        "gpu-memory-utilization 0.82",
        "gpu-memory-utilization 0.72",
    ]


def test_when_nothing_helps_it_says_what_was_tried(resident, home):
    with pytest.raises(LoadError) as failed:
        resident.acquire(spec(max_model_len=1024, fits_share=0.01, no_numbers=True), lambda words: None)
    error = failed.value
    for words in ("does not fit", "max-model-len 512", "max-model-len 256", "gpu-memory-utilization 0.82", "CUDA"):
        assert words in error.reason
    assert "Lower max-model-len" in error.hint and error.shortage
    assert starts(home) <= reduced_start.ATTEMPTS and resident.engine is None
    assert leftovers.end(home) == 0 and not (home / "engine.json").exists()


def test_less_than_the_shortest_context_is_not_tried(resident, home):
    with pytest.raises(LoadError, match="estimated maximum model length is 100") as failed:
        resident.acquire(spec(max_model_len=8192, fits_context=100), lambda words: None)
    assert starts(home) == 1 and failed.value.shortage.longest == 100


def test_another_reason_is_not_tried_again(resident, home):
    with pytest.raises(LoadError, match="ValueError: no"):
        resident.acquire(spec(fail_start="ValueError: no"), lambda words: None)
    assert starts(home) == 1


def test_whoever_watches_may_break_it_off(resident, home):
    def watch(words):
        if "trying" in words:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resident.acquire(spec(max_model_len=8192, fits_context=4096), watch)
    assert starts(home) == 1 and leftovers.end(home) == 0 and resident.engine is None


# Which change helps, without starting anything.

VLLM = EngineSpec("m", "/nowhere", args=(("max-model-len", 32768),))


@pytest.mark.parametrize(
    "gpu, options, short, change",
    [
        (0, {}, Shortage(ShortageKind.CONTEXT, 2.81, 1.0, None, 131072, 46464), {"max-model-len": 46336}),
        (0, {}, Shortage(ShortageKind.CONTEXT, 2.81, 1.0, None, 131072), {"max-model-len": 65536}),
        (0, {}, Shortage(ShortageKind.CONTEXT, 2.81, 1.0, None, 1000, 300), {"max-model-len": 256}),
        (1, {}, Shortage(ShortageKind.CONTEXT, 2.81, 1.0, None, 400, 255), None),
        (1, {}, Shortage(ShortageKind.CONTEXT, 2.81, 1.0, None, 256, 256), None),
        (1, {}, Shortage(ShortageKind.SHARE, 73.6, 40.0, 80.0), {"gpu-memory-utilization": 0.48}),
        (1, {}, Shortage(ShortageKind.SHARE, 73.6, 73.5, 80.0), {"gpu-memory-utilization": 0.89}),
        (1, {}, Shortage(ShortageKind.SHARE, 73.6, 8.0, 80.0), None),
        (1, {"gpu-memory-utilization": 0.3}, Shortage(ShortageKind.SHARE), {"gpu-memory-utilization": 0.2}),
        (1, {"gpu-memory-utilization": 0.15}, Shortage(ShortageKind.WARM_UP), None),
        (1, {}, Shortage(ShortageKind.WARM_UP), {"gpu-memory-utilization": 0.82}),
        (0, {}, Shortage(ShortageKind.WARM_UP), None),
        (1, {}, Shortage(ShortageKind.WEIGHTS, 2.0, 0.1, 23.5), None),
        (0, {}, Shortage(ShortageKind.CPU_CACHE, 8.0, 4.0, 16.0), {"kv-cache-memory-bytes": int(3.6 * 2**30)}),
        (0, {}, Shortage(ShortageKind.CPU_CACHE, 8.0, 0.01, 16.0), None),
        (1, {"max-model-len": 32768}, Shortage(ShortageKind.OTHER), {"max-model-len": 16384}),
        (
            1,
            {"max-model-len": 8192, "max-num-batched-tokens": 8192},
            Shortage(ShortageKind.CACHE),
            {"max-model-len": 4096, "max-num-batched-tokens": 4096},
        ),
        (1, {"max-model-len": 4096}, Shortage(ShortageKind.CACHE), None),
        (1, {"max-model-len": 4096}, Shortage(ShortageKind.OTHER), {"gpu-memory-utilization": 0.82}),
        (0, {"max-model-len": 4096}, Shortage(ShortageKind.OTHER), None),
    ],
)
def test_which_change_helps(monkeypatch, gpu, options, short, change):
    monkeypatch.setattr(defaults, "gpu_memory", lambda: gpu * 80 * 2**30)
    assert reduced_start.next_change(VLLM, options, short) == change


def test_the_models_own_context_counts_where_the_options_say_nothing(tmp_path):
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 2048}}')
    own = EngineSpec("m", str(tmp_path))
    assert reduced_start.next_change(own, {}, Shortage(ShortageKind.OTHER)) == {"max-model-len": 1024}
    (tmp_path / "config.json").write_text("[]")
    assert "max-model-len" not in (reduced_start.next_change(own, {}, Shortage(ShortageKind.OTHER)) or {})


def test_a_cache_of_bytes_wins_over_the_environment(home, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    assert server._environment(home, {}, False)["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert "VLLM_CPU_KVCACHE_SPACE" not in server._environment(home, {"kv-cache-memory-bytes": 2**30}, False)
