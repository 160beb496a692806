"""LoRA adapters: each answers under its own name, on the engine of its base, which is not started again for it."""

import json
import os
import signal

import pytest

from batches.models import BatchStatus
from models_registry.api.wire import model_object
from models_registry.catalog import add as importer
from models_registry.catalog import aliases, remove
from models_registry.catalog.folders import ModelError
from models_registry.gpu.adapters import options
from tests.adapters import adapter_folder
from tests.engines import line, until


@pytest.fixture
def adapter(tmp_path):
    def add(name, base, **options):
        return importer.add(name, str(adapter_folder(tmp_path / name, **options)), base=base)

    return add


def said(lines):
    return {one["response"]["body"]["choices"][0]["message"]["content"] for one in lines}


def notes(batch):
    return [event.message for event in batch.events.all()]


def test_it_answers_differently_on_the_engine_of_its_base(add_model, adapter, submitted, gpu, close):
    base = add_model("base")
    first = adapter("first", base)
    batches = [submitted([line(name, "hello", model=name)]) for name in ("base", "first")]
    gpu.serve()
    engine = gpu.resident.engine.pid
    second = adapter("second", base)
    aliases.point("@best", second)
    batches += [submitted([line(name, "hello", model=name)]) for name in ("second", "@best", "base")]
    gpu.serve()
    answers = [close(batch)[0] for batch in batches]
    plain, as_first, as_second = "hello", "hello (as first says it)", "hello (as second says it)"
    assert list(map(said, answers)) == [{plain}, {as_first}, {as_second}, {as_second}, {plain}]
    names = [one["response"]["body"]["model"] for answer in answers for one in answer]
    assert names == ["base", "first", "second", "@best", "base"]
    assert gpu.resident.engine.pid == engine, "started once"
    assert sum("Loaded" in note for batch in batches for note in notes(batch)) == 1
    assert gpu.worker.adapters == [first.served_name, second.served_name]


def test_one_batch_for_a_base_and_its_adapters(add_model, adapter, submitted, gpu, close):
    base = add_model("base")
    adapter("tuned", base)
    batch = submitted([line(f"{name} {n}", str(n), model=name) for n in range(30) for name in ("base", "tuned")])
    gpu.serve()
    good, bad = close(batch)
    assert not bad and sum("Loaded" in note for note in notes(batch)) == 1
    for one in good:
        name, number = one["custom_id"].split()
        expected = number if name == "base" else f"{number} (as tuned says it)"
        assert said([one]) == {expected}


def test_it_is_listed_with_its_parent_and_unloaded_when_it_is_removed(add_model, adapter, submitted, gpu, close):
    base = add_model("base")
    tuned = adapter("tuned", base)
    close_after(submitted([line("a", model="tuned")]), gpu, close)
    loaded = {gpu.worker.model_name, *gpu.worker.adapters}
    shown = model_object(tuned, loaded)
    assert (shown["parent"], shown["loaded"], shown["context_length"]) == ("base", True, base.context_length)
    with pytest.raises(ModelError, match="base is still needed: adapter tuned"):
        remove.remove(base)
    remove.remove(tuned)
    gpu.serve()
    assert gpu.worker.adapters == [] and gpu.resident.engine.alive()


def test_one_that_the_engine_does_not_know_holds_up_nobody(add_model, adapter, submitted, gpu, close):
    adapter("tuned", add_model("base"))
    close_after(submitted([line("a", model="tuned")]), gpu, close)
    gpu.resident.adapters.add("@adapter-0")
    assert close_after(submitted([line("b", model="base")]), gpu, close)
    assert "@adapter-0" not in gpu.resident.adapters


def test_added_anew_under_its_name_it_is_another(add_model, adapter, submitted, gpu, close, tmp_path):
    base = add_model("base")
    tuned = adapter("tuned", base)
    close_after(submitted([line("a", "x", model="tuned")]), gpu, close)
    remove.remove(tuned)
    importer.add("tuned", str(adapter_folder(tmp_path / "better")), base=base)
    good = close_after(submitted([line("a", "x", model="tuned")]), gpu, close)
    assert said(good) == {"x (as better says it)"}


def test_its_engine_dies_and_it_is_loaded_again(add_model, adapter, submitted, gpu, close):
    base = add_model("base")
    adapter("tuned", base)
    close_after(submitted([line("a", model="tuned")]), gpu, close)
    os.kill(gpu.resident.engine.pid, signal.SIGKILL)
    good = close_after(submitted([line("a", "x", model="tuned")]), gpu, close)
    assert said(good) == {"x (as tuned says it)"}


def test_a_new_worker_adopts_the_engine_with_its_adapters(add_model, adapter, submitted, gpu, close):
    base = add_model("base")
    tuned = adapter("tuned", base)
    close_after(submitted([line("a", model="tuned")]), gpu, close)
    engine = gpu.resident.engine.pid
    gpu.resident.engine, gpu.resident.adapters = None, set()
    gpu.resident.recover()
    assert gpu.resident.engine.pid == engine and gpu.resident.adapters == {tuned.served_name}


def test_what_the_engine_refuses_fails_the_batch_with_its_reason(add_model, adapter, submitted, gpu, tmp_path):
    adapter("tuned", add_model("base"))
    batch = submitted([line("a", model="tuned")])
    (tmp_path / "tuned" / "adapter_config.json").unlink()
    gpu.serve()
    batch.refresh_from_db()
    assert batch.status == BatchStatus.FAILED and batch.errors[0]["code"] == "model_load_failed"
    assert "No adapter found" in batch.errors[0]["message"]


def given(**options):
    """The engine's options for adapters, for one that runs, and one that is deployed."""
    usual = {"enable-lora": True, "max-lora-rank": 16, "max-loras": 2, "max-cpu-loras": 3}
    return usual | {name.replace("_", "-"): value for name, value in options.items()}


def test_the_engine_gets_room_for_those_that_are_asked_for_and_one_more(add_model, adapter):
    base = add_model("base")
    assert options(base, ["base"]) == {}
    for number in range(3):
        aliases.point(f"@{number}", adapter(f"small-{number}", base))
    assert options(base, ["base", "no-such"]) == {}, "none is asked for"
    assert options(base, ["base", "small-0", "@0"]) == given(max_cpu_loras=5)
    assert options(base, ["small-0", "@1", "@2"]) == given(max_loras=4, max_cpu_loras=5)
    adapter("large", base, rank=40, inner=64, outer=64)
    assert options(base, ["small-0"]) == given(max_lora_rank=64, max_cpu_loras=6), "another may be asked for next"


def test_what_the_model_sets_itself_stays(add_model, adapter):
    base = add_model("base", **{"enable-lora": True, "max-loras": 3, "max-cpu-loras": 4})
    assert options(base, []) == {}, "vLLM's own, as long as there are no adapters"
    for number in range(9):
        adapter(f"a{number}", base)
    assert options(base, [])["max-loras"] == options(base, [f"a{number}" for number in range(9)])["max-loras"] == 3
    args = {"enable-lora": True, "max-cpu-loras": 4}
    assert options(add_to(base, args), [f"a{number}" for number in range(9)])["max-loras"] == 4


def add_to(base, args):
    base.engine_args = args
    base.save()
    return base


def engine_options(gpu):
    return {name: value for name, value in gpu.resident.engine.started.options.items() if "lora" in name}


def test_adapters_come_and_go_while_it_runs(add_model, adapter, submitted, gpu, close):
    """Without one waiting the engine starts plain. One that is asked for has it start again, in its order; from then on
    others need no start, whether somebody waits for them or not."""
    base, other = add_model("base"), add_model("other")
    tuned = adapter("tuned", base)
    close_after(submitted([line("a", model="base")]), gpu, close)
    plain = gpu.resident.engine.pid
    assert engine_options(gpu) == {} and not gpu.serves(tuned) and gpu.serves(base)
    close_after(submitted([line("a", model="base")]), gpu, close)
    assert gpu.resident.engine.pid == plain
    close_after(submitted([line("a", "x", model="tuned")]), gpu, close)
    engine = gpu.resident.engine.pid
    assert engine != plain and engine_options(gpu) == given()
    assert gpu.serves(tuned) and gpu.serves(base) and not gpu.serves(other)
    late = [adapter(f"late{number}", base) for number in range(3)]
    assert gpu.serves(late[0])
    for name in ("base", "late0", "late1"):
        close_after(submitted([line("a", model=name)]), gpu, close)
    assert not gpu.serves(late[2]), "three are loaded, and it was started for three"
    assert said(close_after(submitted([line("a", "x", model="late2")]), gpu, close)) == {"x (as late2 says it)"}
    large = adapter("large", base, rank=40, inner=64, outer=64)
    assert not gpu.serves(large) and gpu.resident.engine.pid == engine
    close_after(submitted([line("a", model="large")]), gpu, close)
    assert engine_options(gpu) == given(max_lora_rank=64, max_cpu_loras=7) and gpu.serves(large)
    os.kill(gpu.resident.engine.pid, signal.SIGKILL)
    until(lambda: not gpu.resident.engine.alive())
    assert not gpu.serves(large) and not gpu.serves(base)
    close_after(submitted([line("a", model="base")]), gpu, close)
    assert engine_options(gpu) == {}, "nobody waits for one any more"


def test_its_options_are_chosen_by_all_that_waits(add_model, adapter, submitted, gpu, close):
    base = add_model("base")
    for number in range(3):
        aliases.point(f"@{number}", adapter(f"a{number}", base))
    batches = [submitted([line("a", model=name)]) for name in ("base", "@0", "a0", "@1")]
    batches.append(submitted([line("a", model="base"), line("b", model="a2")]))
    gpu.serve()
    assert all(len(close(batch)[0]) == batch.total for batch in batches)
    assert engine_options(gpu) == given(max_loras=4, max_cpu_loras=5)
    assert sum("Loaded" in note for batch in batches for note in notes(batch)) == 1


def test_a_start_for_an_adapter_is_a_swap(add_model, adapter, submitted, gpu, close):
    """So work for another model that waits longer comes first."""
    base, _ = add_model("base"), add_model("other")
    close_after(submitted([line("a", model="base")]), gpu, close)
    adapter("tuned", base)
    for name in ("other", "tuned", "base"):
        submitted([line("a", model=name)])
    order = []
    run = type(gpu).load
    gpu.load = lambda model, on_progress: (order.append(model.name), run(gpu, model, on_progress))[1]
    gpu.serve()
    assert order == ["base", "other", "tuned"]


def test_a_woken_engine_is_one_that_takes_the_adapter(add_model, adapter, gpu):
    """Of the same model one may sleep with room for adapters, and one without."""
    base = add_model("base")
    tuned = adapter("tuned", base)
    gpu.resident.sleep = True
    plain = gpu.load(base, lambda words: None)
    able = gpu.load(tuned, lambda words: None)
    assert able is not plain and gpu.resident.sleepers.engines == [plain]
    gpu.load(add_model("other"), lambda words: None)
    assert gpu.load(tuned, lambda words: None) is able and able.started.woken


@pytest.mark.parametrize(
    "change, message",
    [
        ({"use_dora": True}, "has DoRA"),
        ({"lora_bias": True}, "has a bias"),
        ({"bias": "all"}, "has biases"),
        ({"modules_to_save": ["lm_head"]}, "has whole modules"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4, which changes the base"),
        ({"peft_type": "IA3"}, "only LORA"),
        ({"names": {}}, "has nothing where"),
        ({"names": {"base_model.model.lm_head.weight": [4, 4]}}, "has base_model.model.lm_head.weight where"),
        ({"rank": 600, "inner": 601, "outer": 601}, "rank is 600"),
        ({"rank": 8}, "run with max-lora-rank 4"),
    ],
)
def test_what_could_not_be_served_is_refused_when_it_is_added(add_model, adapter, change, message):
    from models_registry.models import Model

    base = add_model("base", **({"max-lora-rank": 4} if "max-lora-rank" in message else {}))
    with pytest.raises(ModelError, match=message):
        adapter("tuned", base, **change)
    assert Model.objects.count() == 1


def test_bases_and_folders_that_do_not_go_together(add_model, adapter, tmp_path):
    from models_registry.models import Model
    from tests.models_registry.catalog.test_add import model_folder

    base = add_model("base")
    tuned = adapter("tuned", base)
    with pytest.raises(ModelError, match="tuned is an adapter"):
        adapter("second", tuned)
    far = Model.objects.create(name="far", kind="remote", source="http://far/v1")
    with pytest.raises(ModelError, match="on a remote server"):
        adapter("third", far)
    with pytest.raises(ModelError, match=r"an adapter, not a whole model.*--base"):
        importer.add("fourth", str(tmp_path / "tuned"))
    with pytest.raises(ModelError, match="the options of its base"):
        importer.add("fifth", str(tmp_path / "tuned"), None, {"seed": 1}, base=base)
    real = importer.add("real", str(model_folder(tmp_path / "real")))
    with pytest.raises(ModelError, match=r"adapter of another base: .* has none of the modules"):
        adapter("sixth", real)
    (tmp_path / "tuned" / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(ModelError, match="damaged or not complete"):
        importer.add("seventh", str(tmp_path / "tuned"), base=base)
    (tmp_path / "tuned" / "adapter_config.json").write_text(json.dumps([]))
    with pytest.raises(ModelError, match="not a JSON object"):
        importer.add("eighth", str(tmp_path / "tuned"), base=base)


def close_after(batch, gpu, close):
    gpu.serve()
    good, bad = close(batch)
    assert not bad
    return good


def test_without_its_last_adapter_a_base_stays_on_its_engine(add_model, adapter, submitted, gpu, close):
    base = add_model("base")
    tuned = adapter("tuned", base)
    close_after(submitted([line("a", model="tuned")]), gpu, close)
    engine = gpu.resident.engine.pid
    remove.remove(tuned)
    close_after(submitted([line("b", model="base")]), gpu, close)
    assert gpu.resident.engine.pid == engine
