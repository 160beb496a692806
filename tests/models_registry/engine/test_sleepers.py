"""Engines that make room by sleeping: who sleeps, who wakes and how, and that none is ever left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from models_registry.engine import control, defaults, server, sleeping
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.machine import leftovers
from models_registry.engine.resident import Resident
from models_registry.engine.spec import Adapter, EngineKind, EngineSpec


def spec(name, task="chat", **args):
    given = {key.replace("_", "-"): value for key, value in args.items()}
    return EngineSpec(name, "", task=task, kind=EngineKind.SCRIPTED, args=tuple(sorted(given.items())))


ONE, TWO, THREE = spec("one"), spec("two"), spec("three")


@pytest.fixture
def resident(home):
    made = Resident(home, 30, sleep=True)
    yield made
    made.release()


def load(resident, one, adapter=None):
    return resident.acquire(one, lambda words: None, adapter)


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill(engine):
    os.kill(engine.pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while engine.alive():
        assert time.monotonic() < end
        time.sleep(0.02)


def sleeps(engine):
    status, body = control.request(engine.address, "GET", "/is_sleeping")
    return status == 200 and json.loads(body)["is_sleeping"]


def asleep(resident):
    return [engine.spec.name for engine in resident.sleepers.engines]


def kept(home):
    return json.loads((home / "engine.json").read_text())


def left(home):
    """Folders of engines; their logs are kept in any case."""
    return list(home.glob("engine-*/"))


def test_it_sleeps_while_another_is_loaded_and_wakes(resident, home):
    first = load(resident, ONE)
    assert first.can_sleep and first.fixed_answer == control.PROMPT and not first.started.woken
    assert kept(home)["pid"] == first.pid
    second = load(resident, TWO)
    assert not gone(first.pid) and sleeps(first) and not sleeps(second)
    assert asleep(resident) == ["one"] and kept(home)["pid"] == second.pid

    fixed_answer = []
    again = resident.acquire(ONE, fixed_answer.append)
    assert again is first and resident.engine is first and not sleeps(first) and sleeps(second)
    assert fixed_answer == ["waking up"] and first.started.woken and 0 <= first.started.seconds < 5
    assert asleep(resident) == ["two"] and kept(home)["pid"] == first.pid
    assert control.fixed_answer(first.address, ONE) == control.PROMPT
    assert len(list(home.glob("engine-*.log"))) == 2, "it was not started again"

    resident.release()
    assert gone(first.pid) and gone(second.pid)
    assert not left(home) and not (home / "engine.json").exists() and asleep(resident) == []


@pytest.mark.parametrize("task", ["embedding", "score"])
def test_a_model_that_writes_nothing_is_known_again_by_its_numbers(resident, task):
    wanted = spec("numbers", task=task)
    first = load(resident, wanted)
    assert len(first.fixed_answer) == 8
    load(resident, TWO)
    assert load(resident, wanted) is first


@pytest.mark.parametrize("task", ["chat", "embedding"])
def test_one_that_speaks_nonsense_is_started_anew(resident, caplog, task):
    wanted = spec("one", task=task, after_sleep="nonsense")
    first = load(resident, wanted)
    load(resident, TWO)
    again = load(resident, wanted)
    assert again.pid != first.pid and gone(first.pid) and not again.started.woken
    assert (
        again.fixed_answer == first.fixed_answer and control.fixed_answer(again.address, wanted) == first.fixed_answer
    )
    assert "differs from the one before it slept" in caplog.text and asleep(resident) == ["two"]


@pytest.mark.parametrize("way", ["refuse", "die"])
def test_one_that_does_not_wake_is_started_anew(resident, home, caplog, way):
    wanted = spec("one", after_sleep=way)
    first = load(resident, wanted)
    load(resident, TWO)
    again = load(resident, wanted)
    assert again.pid != first.pid and gone(first.pid) and again.alive() and not again.started.woken
    assert "started anew instead of woken" in caplog.text
    assert kept(home)["pid"] == again.pid and len(left(home)) == 2


def test_one_that_ended_in_its_sleep_is_forgotten(resident, home):
    first = load(resident, ONE)
    load(resident, TWO)
    kill(first)
    again = load(resident, ONE)
    assert again.pid != first.pid and not again.started.woken and asleep(resident) == ["two"]
    assert len(left(home)) == 2


def test_one_that_ended_while_it_was_awake_leaves_the_others_asleep(resident):
    first = load(resident, ONE)
    second = load(resident, TWO)
    kill(second)
    third = load(resident, TWO)
    assert third.pid != second.pid and sleeps(first) and asleep(resident) == ["one"]
    assert load(resident, ONE) is first


def test_other_options_are_another_engine(resident):
    first = load(resident, ONE)
    second = load(resident, spec("one", max_num_seqs=3))
    assert second.pid != first.pid and sleeps(first)
    assert load(resident, ONE) is first and asleep(resident) == ["one"]


def test_only_so_many_sleep_and_the_one_that_slept_longest_goes(resident, home):
    resident.sleepers.most = 2
    engines = [load(resident, spec(f"m{number}")) for number in range(4)]
    assert asleep(resident) == ["m1", "m2"]
    assert [gone(engine.pid) for engine in engines] == [True, False, False, False] and len(left(home)) == 3
    assert load(resident, spec("m1")) is engines[1], "its own place was free for the one that made room"
    assert asleep(resident) == ["m2", "m3"]


def test_two_take_turns_where_only_one_may_sleep(resident):
    resident.sleepers.most = 1
    first, second = load(resident, ONE), load(resident, TWO)
    assert [load(resident, ONE), load(resident, TWO)] == [first, second]


def test_none_sleeps_without_room_in_the_machines_memory(resident, monkeypatch):
    available = 100
    monkeypatch.setattr(sleeping.psutil, "virtual_memory", lambda: SimpleNamespace(available=available, total=0))
    monkeypatch.setattr(defaults, "weights", lambda source: 70)
    first = load(resident, ONE)
    second = load(resident, TWO)
    assert sleeps(first), "84 of 100"
    available = 80
    load(resident, THREE)
    assert gone(first.pid) and gone(second.pid), "the older one went first, and that was not enough"
    assert asleep(resident) == []


def test_a_start_that_lacks_memory_ends_those_that_sleep_before_it_takes_less(resident, home, caplog):
    first = load(resident, ONE)
    wanted = spec("two", fits_without=str(first.folder))
    second = load(resident, wanted)
    assert gone(first.pid) and asleep(resident) == [] and second.started.reduced == {}
    assert "ending 1 engines that sleep" in caplog.text


def test_a_context_that_does_not_fit_is_not_the_fault_of_those_that_sleep(resident):
    first = load(resident, ONE)
    second = load(resident, spec("two", max_model_len=8192, fits_context=4096))
    assert second.started.reduced == {"max-model-len": 4096} and sleeps(first)


def test_a_swap_that_fails_leaves_the_others_asleep(resident):
    first = load(resident, ONE)
    with pytest.raises(LoadError, match="no such luck"):
        load(resident, spec("two", fail_start="ValueError: no such luck"))
    assert resident.engine is None and sleeps(first)
    assert load(resident, ONE) is first


def test_whoever_breaks_off_before_it_wakes_leaves_it_asleep(resident):
    def stop(words):
        raise KeyboardInterrupt

    first = load(resident, ONE)
    load(resident, TWO)
    with pytest.raises(KeyboardInterrupt):
        resident.acquire(ONE, stop)
    assert resident.engine is None and sleeps(first) and asleep(resident) == ["one", "two"]
    assert load(resident, ONE) is first


@pytest.mark.parametrize("moment", ["sleep", "wake"])
def test_one_that_is_half_asleep_is_ended(resident, monkeypatch, moment):
    first = load(resident, ONE)
    if moment == "wake":
        load(resident, TWO)

    def interrupted(address):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(control, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(resident, TWO if moment == "sleep" else ONE)
    assert gone(first.pid) and "one" not in asleep(resident)
    again = load(resident, ONE)
    assert again.pid != first.pid and again.alive()


def test_adapters_are_loaded_again_after_a_sleep(resident, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    adapter, wanted = Adapter("@adapter-1", str(tmp_path)), spec("one", enable_lora=True)
    first = load(resident, wanted, adapter)
    load(resident, TWO)
    assert resident.adapters == set()
    assert load(resident, wanted) is first and resident.adapters == set()
    assert control.adapters(first.address) == set()
    load(resident, wanted, adapter)
    assert resident.adapters == control.adapters(first.address) == {"@adapter-1"}


def test_unload_ends_one_model_awake_or_asleep(resident, home):
    first, second = load(resident, ONE), load(resident, TWO)
    assert resident.unload("one") and gone(first.pid) and not gone(second.pid)
    assert resident.unload("two") and gone(second.pid) and resident.engine is None
    assert not resident.unload("one") and not left(home) and not (home / "engine.json").exists()


# Who does not sleep.


def test_without_the_option_an_engine_is_ended(home):
    resident = Resident(home, 30)
    first = load(resident, ONE)
    assert (
        not first.can_sleep and first.folder == home and control.request(first.address, "GET", "/is_sleeping")[0] == 404
    )
    second = load(resident, TWO)
    assert gone(first.pid) and asleep(resident) == []
    resident.release()
    assert gone(second.pid)


def test_a_model_may_refuse_to_sleep(resident):
    first = load(resident, spec("one", enable_sleep_mode=False))
    load(resident, TWO)
    assert gone(first.pid) and asleep(resident) == []


def test_one_that_did_not_answer_the_fixed_prompt_does_not_sleep(resident, monkeypatch, caplog):
    monkeypatch.setattr(control, "PROMPT", "[[status 500]]")
    first = load(resident, ONE)
    assert first.fixed_answer is None and "will not be put to sleep" in caplog.text
    load(resident, TWO)
    assert gone(first.pid)


def test_one_that_fails_to_sleep_is_ended(resident, monkeypatch, caplog):
    first = load(resident, ONE)
    monkeypatch.setattr(control, "SLEEP_SECONDS", 0.3)
    os.kill(first.pid, signal.SIGSTOP)
    monkeypatch.setattr(resident, "keep_adapters", lambda names: None)
    load(resident, TWO)
    assert gone(first.pid) and "Engine of one: it does not sleep" in caplog.text


@pytest.mark.parametrize(
    "gpu, kind, expected",
    [(0, EngineKind.VLLM, False), (80, EngineKind.VLLM, True), (0, EngineKind.SCRIPTED, True)],
)
def test_vllm_sleeps_on_a_gpu_only(monkeypatch, tmp_path, gpu, kind, expected):
    monkeypatch.setattr(defaults, "gpu_memory", lambda: gpu * 2**30)
    options = server.effective(EngineSpec("m", str(tmp_path), kind=kind), {}, sleeps=True)
    assert options.get("enable-sleep-mode", False) is expected
    assert options.get("gpu-memory-utilization") == (0.85 if expected else None)
    assert "enable-sleep-mode" not in server.effective(EngineSpec("m", str(tmp_path), kind=kind), {})


# After a crash of the worker.


def leave(home, *names):
    """A worker that has loaded these one after the other, and is killed: the pid of each."""
    program = (
        "import os, signal\nfrom pathlib import Path\n"
        "from models_registry.engine.resident import Resident\n"
        "from models_registry.engine.spec import EngineKind, EngineSpec\n"
        f"resident = Resident(Path({str(home)!r}), 30, sleep=True)\n"
        f"for name in {names!r}:\n"
        "    spec = EngineSpec(name, '', kind=EngineKind.SCRIPTED)\n"
        "    print(resident.acquire(spec, lambda words: None).pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=server.CODE, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return [int(one) for one in done.stdout.split()]


@pytest.mark.parametrize("sleep", [True, False])
def test_the_next_worker_adopts_the_one_awake_and_ends_the_others(home, sleep):
    *others, awake = leave(home, "one", "two", "three")
    assert not any(map(gone, others))
    resident = Resident(home, 30, sleep=sleep)
    resident.recover()
    assert resident.engine.pid == awake and all(map(gone, others)) and len(left(home)) == 1
    load(resident, ONE)
    assert sleep != gone(awake), "an adopted one can sleep too"
    resident.release()
    assert gone(awake) and not left(home)


def test_a_worker_that_died_in_the_middle_of_a_swap(home):
    """The first sleeps, the second has not been started, and no file says so."""
    pids = leave(home, "one", "two")
    (home / "engine.json").unlink()
    resident = Resident(home, 30, sleep=True)
    resident.recover()
    assert resident.engine is None and all(map(gone, pids)) and not left(home)


def test_leftovers_are_ended_by_a_start_too(home):
    pids = leave(home, "one", "two")
    resident = Resident(home, 30, sleep=True)
    load(resident, THREE)
    assert all(map(gone, pids)) and len(left(home)) == 1
    resident.release()


def test_an_adopted_engine_that_gives_no_sensible_answer_is_ended(home, monkeypatch):
    (pid,) = leave(home, "one")

    def silent(address):
        raise ConnectionResetError

    monkeypatch.setattr(control, "adapters", silent)
    resident = Resident(home, 30, sleep=True)
    resident.recover()
    assert resident.engine is None and gone(pid)


def test_what_is_spared(home):
    def started(mark):
        return subprocess.Popen(["sleep", "300"], start_new_session=True, env=os.environ | {leftovers.MARK: mark})

    spared, ended, stranger = started(f"{home}/a"), started(f"{home}/b"), started(f"{home}-2")
    assert leftovers.end(home, [home / "a"]) == 1
    assert gone(ended.pid) and not gone(spared.pid) and not gone(stranger.pid)
    assert leftovers.end(home) == 1 and gone(spared.pid)
    stranger.kill()
    stranger.wait()


@pytest.mark.parametrize(
    "one, other, expected",
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", [1.0], False),
        ([1.0, 2.0], [1.0, 2.0001], True),
        ([1.0, 2.0], [2.0, 1.0], False),
        ([1.0], [1.0, 0.0], False),
        ([0.0, 0.0], [0.0, 0.0], False),
        ([1.0, float("nan")], [1.0, float("nan")], False),
    ],
)
def test_alike(one, other, expected):
    assert control.is_same_answer(one, other) is expected
