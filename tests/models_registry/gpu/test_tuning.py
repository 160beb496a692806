"""Tuning: which settings are tried, what is measured of each, what an interruption leaves, and what is kept."""

import time

import pytest

from models_registry.catalog.folders import ModelError
from models_registry.engine.spec import EngineKind
from models_registry.gpu import operations
from models_registry.gpu.tuning import tune as tuning
from models_registry.gpu.tuning.keep import keep
from models_registry.gpu.tuning.search import NGRAM, Facts, changed, search
from models_registry.models import Measurement, MeasurementKind, Model, Operation, Worker
from tests.amount import few
from tests.engines import in_thread, until
from vbs.configuration.models import AuditEntry

SLOW = {"max-num-seqs": 2, "latency-ms": 120}
OWN = SLOW | {"counters": True}  # as `add_model` sets it
FEW = {"requests": 16, "max_tokens": 2, "prompt_tokens": 5}
VLLM = {"max-num-seqs": 64, "max-num-batched-tokens": 2048, "dtype": "float32", "max-model-len": 1024}


class Killed(BaseException):
    """Stands for the death of the worker's process."""


def dies():
    raise Killed


def fresh(operation):
    return Operation.objects.get(pk=operation.pk)


def walked(options, better=lambda setting: False, **facts):
    """Every setting that is tried, where `better` says which are faster."""
    given = {"takes": lambda option: True, "requests": 200, "input_tokens": 100_000, "context": 1024, "on_cpu": True}
    search_, tried = search(options, Facts(**given | facts)), []
    try:
        setting = next(search_)
        while True:
            tried.append(setting)
            setting = search_.send(better(setting))
    except StopIteration:
        return tried


# Which settings are tried


def test_each_option_is_varied_alone_where_nothing_is_better():
    assert walked(VLLM) == [
        {"dtype": "bfloat16"},
        {"max-num-seqs": 128},
        {"max-num-seqs": 32},
        {"max-num-batched-tokens": 4096},
        {"max-num-batched-tokens": 1024},
        {"enable-prefix-caching": False},
        {"enable-chunked-prefill": False},
        {"speculative-config": NGRAM},
    ]


def test_the_best_so_far_is_kept_and_gone_on_from():
    good = [{"dtype": "bfloat16"}, {"dtype": "bfloat16", "max-num-seqs": 128}]
    tried = walked(VLLM, lambda setting: setting in good)
    assert tried[:3] == [*good, {**good[1], "max-num-seqs": 256}], "twice as many were better, so four times as many"
    assert tried[3] == {**good[1], "max-num-batched-tokens": 4096}, "and fewer are not"
    assert all(setting.items() >= good[1].items() for setting in tried[3:])


@pytest.mark.parametrize(
    "options, facts, absent",
    [
        ({}, {"on_cpu": False}, "dtype"),
        ({}, {"requests": 64}, ("max-num-seqs", 128)),
        ({"max-num-seqs": 256}, {"requests": 64}, ("max-num-seqs", 128)),
        ({"max-num-seqs": 1}, {"requests": 1}, "max-num-seqs"),
        ({"max-num-seqs": 2048}, {"requests": 9999}, ("max-num-seqs", 4096)),
        ({"max-num-seqs": 2048}, {}, ("max-num-batched-tokens", 1024)),
        ({}, {"input_tokens": 2048}, ("max-num-batched-tokens", 4096)),
        ({"no-enable-chunked-prefill": True}, {"context": 2048}, ("max-num-batched-tokens", 1024)),
        ({}, {"context": 4096}, "enable-chunked-prefill"),
        ({}, {"writes": False}, "speculative-config"),
        ({}, {"writes": False}, "enable-prefix-caching"),
        ({}, {"takes": lambda option: option != "speculative-config"}, "speculative-config"),
    ],
)
def test_what_cannot_matter_or_work_is_not_tried(options, facts, absent):
    tried = walked(VLLM | options, **facts)
    if isinstance(absent, tuple):
        assert not [setting for setting in tried if absent in setting.items()]
    else:
        assert not [setting for setting in tried if absent in setting]


def test_switches_go_the_other_way():
    tried = walked(VLLM | {"no-enable-prefix-caching": True, "speculative-config": NGRAM})
    assert {"enable-prefix-caching": True} in tried and {"speculative-config": None} in tried


def test_a_setting_replaces_what_the_model_has():
    own = {"no-enable-prefix-caching": True, "max-num-seqs": 4, "seed": 1, "speculative-config": NGRAM}
    setting = {"enable-prefix-caching": True, "max-num-seqs": 8, "speculative-config": None}
    assert changed(own, setting) == {"seed": 1, "enable-prefix-caching": True, "max-num-seqs": 8}


# A whole run


@pytest.mark.django_db(transaction=True)
class TestRuns:
    def test_it_finds_what_is_faster_and_changes_nothing(self, add_model, gpu):
        own = SLOW | {"latency-ms": 300}  # so long that a busy machine does not turn the order round
        operation = operations.ask("tune", add_model(**own), FEW)
        gpu.serve()
        ended = fresh(operation)
        assert ended.state == "succeeded", ended.error
        result = ended.result
        first, *others = result["candidates"]
        assert first["setting"] == {} and first["requests"] == 16 and first["load_seconds"] > 0
        assert result["best"]["max-num-seqs"] == 8 and result["gain"] > 1.5 and not result["kept"]
        assert [one["setting"].get("max-num-seqs") for one in others][:2] == [4, 8]
        assert result["trying"] is None and "Everything was tried" in result["ended"]
        assert "The fastest: max-num-seqs 8" in ended.log and "requests/s" in ended.log
        assert Model.objects.get().engine_args == OWN | own and not AuditEntry.objects.exists()
        assert gpu.resident.engine is None and not gpu.worker.model_name, "the GPU is free"
        assert not Measurement.objects.filter(kind=MeasurementKind.BENCHMARK).exists(), "estimates are for its options"

    def test_it_keeps_the_fastest_when_told_to(self, add_model, gpu):
        model = add_model(**SLOW)
        operation = operations.ask("tune", model, FEW | {"keep": True}, asked_by="ann")
        gpu.serve()
        assert fresh(operation).result["kept"] and "has this setting now" in fresh(operation).log
        assert Model.objects.get().engine_args == OWN | fresh(operation).result["best"]
        entry = AuditEntry.objects.get()
        assert (entry.username, entry.action, entry.target) == ("ann", "model.edit", model.name)
        assert "engine_args: max-num-seqs " in entry.detail and operation.pk in entry.detail

    def test_the_button_keeps_it_once_and_only_what_was_measured(self, add_model, gpu):
        model = add_model(**SLOW)
        operation, kept = operations.ask("tune", model, FEW), []
        with pytest.raises(ModelError, match="found no setting"):
            keep(operation, kept.append)
        gpu.serve()
        Model.objects.update(engine_args=OWN | {"token-ms": 1})
        with pytest.raises(ModelError, match="were changed since"):
            keep(operation, kept.append)
        Model.objects.update(engine_args=OWN)
        assert keep(operation, kept.append) and keep(operation, kept.append)
        best = fresh(operation).result["best"]["max-num-seqs"]
        assert Model.objects.get().engine_args["max-num-seqs"] == best > 2 and fresh(operation).result["kept"]
        assert kept == [f"engine_args: max-num-seqs {best}, as {operation.pk} has measured"], "and is recorded once"

    def test_a_setting_that_does_not_start_or_fails_is_a_row_of_the_table(self, add_model, gpu, monkeypatch):
        def settings(options, facts):
            yield {"fail-start": "ValueError: speculative decoding is not supported"}
            yield {"crash-after": 10}
            yield {"latency-ms": 2000}

        monkeypatch.setattr(tuning, "search", settings)
        operation = operations.ask("tune", add_model(**SLOW), FEW)
        gpu.serve()
        result = fresh(operation).result
        errors = [one["error"] for one in result["candidates"]]
        assert errors[0] == "" and "not supported" in errors[1] and "died" in errors[2] and "slower" in errors[3]
        assert result["best"] == {} and "Nothing was faster" in fresh(operation).log

    def test_a_model_that_does_not_start_cannot_be_tuned(self, add_model, gpu):
        operation = operations.ask("tune", add_model(**{"fail-start": "ValueError: odd weights"}), FEW)
        gpu.serve()
        assert fresh(operation).state == "failed" and "odd weights" in fresh(operation).error

    def test_it_ends_in_time_with_what_it_has(self, add_model, gpu):
        operation = operations.ask("tune", add_model(**SLOW | {"start-seconds": 1.2}), FEW)
        Operation.objects.update(options=operation.options | {"minutes": 0.07})
        began = time.monotonic()
        gpu.serve()
        ended = fresh(operation)
        assert (
            ended.state == "succeeded" and "minutes are over" in ended.result["ended"] and time.monotonic() - began < 9
        )
        assert 1 <= len(ended.result["candidates"]) < 4 and gpu.resident.engine is None

    def test_cancelled_it_leaves_its_table_and_nothing_else(self, add_model, gpu):
        operation = operations.ask("tune", add_model(**SLOW), FEW | {"keep": True})
        thread = in_thread(gpu)
        until(lambda: (fresh(operation).result or {}).get("candidates"))
        until(lambda: Worker.objects.get().engine_pid)
        assert Worker.objects.get().model_name == "", "nobody else is sent to the engine of a trial"
        assert operations.cancel(fresh(operation))
        thread.join(20)
        assert fresh(operation).state == "cancelled" and fresh(operation).result["candidates"]
        assert gpu.resident.engine is None and Model.objects.get().engine_args == OWN

    def test_it_makes_room_and_goes_on_with_what_it_has(self, add_model, gpu):
        model, urgent = add_model(**SLOW), add_model("urgent")
        operation = operations.ask("tune", model, FEW)
        thread = in_thread(gpu)
        until(lambda: (fresh(operation).result or {}).get("candidates"))
        first = operations.ask("test", urgent, now=True)
        until(lambda: fresh(first).state == "succeeded")
        measured = fresh(operation).result["candidates"]
        assert fresh(operation).state in ("queued", "running") and "it goes on after that" in fresh(operation).log
        thread.join(60)
        ended = fresh(operation)
        assert ended.state == "succeeded" and ended.attempts == 1 and ended.finished_at > fresh(first).finished_at
        assert ended.result["candidates"][: len(measured)] == measured, "none is measured twice"
        assert ended.result["best"]["max-num-seqs"] > 2

    def test_what_killed_the_worker_is_not_tried_again(self, add_model, make_gpu):
        operation = operations.ask("tune", add_model(**SLOW), FEW)
        dead = Worker.objects.create(cluster="gpu", hostname="test", pid=1)
        held = operations.claim(operation.pk, dead.pk)
        left = tuning._nothing(held.model) | {"trying": {"max-num-seqs": 4}, "options": SLOW}
        left["candidates"] = [one_of({}, 10.0)]
        assert operations.keep_result(held, dead.pk, left)
        operations.release_all(dead.pk)
        make_gpu().serve()
        ended = fresh(operation)
        tried = [(one["setting"], bool(one["error"])) for one in ended.result["candidates"]]
        assert tried[:2] == [({}, False), ({"max-num-seqs": 4}, True)] and "died while" in ended.log
        assert ended.state == "succeeded" and ended.attempts == 2

    @pytest.mark.parametrize(
        "write, before", few([(3, True), (1, False), (2, True), (4, False), (5, True), (6, False)], 2)
    )
    def test_whenever_the_worker_dies_the_books_balance(self, add_model, make_gpu, monkeypatch, write, before):
        """It dies before or after one of its writes; the next worker goes on, and what it kept it kept once."""
        operation = operations.ask("tune", add_model(**SLOW), FEW | {"keep": True}, asked_by="ann")
        real, writes = operations.keep_result, []

        def dying(*given):
            writes.append(given)
            if len(writes) == write and before:
                raise Killed
            done = real(*given)
            if len(writes) == write:
                raise Killed
            return done

        monkeypatch.setattr(operations, "keep_result", dying)
        first = make_gpu()
        with pytest.raises(Killed):
            first.serve()
        assert Model.objects.get().engine_args == OWN and not AuditEntry.objects.exists()
        operations.release_all(first.worker.pk)
        make_gpu().serve()
        ended = fresh(operation)
        settings = [str(one["setting"]) for one in ended.result["candidates"]]
        assert ended.state == "succeeded" and ended.result["kept"] and len(set(settings)) == len(settings)
        assert Model.objects.get().engine_args == OWN | ended.result["best"] and AuditEntry.objects.count() == 1

    def test_a_death_while_it_keeps_leaves_both_or_neither(self, add_model, make_gpu, monkeypatch):
        operation = operations.ask("tune", add_model(**SLOW), FEW | {"keep": True})
        monkeypatch.setattr("vbs.configuration.audit.record_later", lambda *given: dies())
        first = make_gpu()
        with pytest.raises(Killed):
            first.serve()
        assert Model.objects.get().engine_args == OWN and not fresh(operation).result["kept"]
        monkeypatch.undo()
        operations.release_all(first.worker.pk)
        monkeypatch.setattr(operations, "end", lambda *given: dies())
        second = make_gpu()
        with pytest.raises(Killed):
            second.serve()
        assert Model.objects.get().engine_args["max-num-seqs"] > 2 and fresh(operation).result["kept"]
        monkeypatch.undo()
        operations.release_all(second.worker.pk)
        make_gpu().serve()
        assert fresh(operation).state == "succeeded" and AuditEntry.objects.count() == 1

    def test_options_that_were_changed_meanwhile_are_measured_anew(self, add_model, make_gpu):
        operation = operations.ask("tune", add_model(**SLOW), FEW)
        dead = Worker.objects.create(cluster="gpu", hostname="test", pid=1)
        held = operations.claim(operation.pk, dead.pk)
        operations.keep_result(held, dead.pk, tuning._nothing(held.model) | {"candidates": [one_of({}, 10.0)]})
        operations.release_all(dead.pk)
        Model.objects.update(engine_args=SLOW | {"max-num-seqs": 4})
        make_gpu().serve()
        assert fresh(operation).result["own"]["max-num-seqs"] == 4 and "begins anew" in fresh(operation).log

    def test_the_next_worker_ends_the_engine_of_a_trial(self, add_model, make_gpu):
        model = add_model(**SLOW)
        gpu = make_gpu()
        engine = gpu.try_out(model, SLOW | {"max-num-seqs": 7}, lambda doing: None)
        assert engine.started.options["max-num-seqs"] == 7 and engine.spec.trial
        gpu.resident.recover()
        assert not engine.alive()
        gpu.resident.engine = None
        loaded = gpu.load(model, lambda doing: None)
        assert loaded.started.options["max-num-seqs"] == 2 and not loaded.spec.trial

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"minutes": 0}, "minutes is 0"),
            ({"file": 5}, "the id of a file"),
            ({"file": "file-x"}, "there is no file 'file-x'"),
            ({"keep": 1}, "true or false"),
        ],
    )
    def test_what_cannot_be_asked(self, add_model, options, message):
        with pytest.raises(ModelError, match=message):
            operations.ask("tune", add_model(), options)

    def test_adapters_and_remote_models_have_no_options_to_tune(self, add_model):
        base = add_model()
        tuned = Model.objects.create(name="tuned", kind="scripted", base=base)
        far = Model.objects.create(name="far", kind=EngineKind.REMOTE, source="http://127.0.0.1:9/v1")
        with pytest.raises(ModelError, match="tune its base scripted"):
            operations.ask("tune", tuned)
        with pytest.raises(ModelError, match="which has its own options"):
            operations.ask("tune", far)


def one_of(setting, rate):
    return tuning.candidates.unmeasured(setting, "") | {
        "requests": 16, "requests_per_second": rate, "tokens_per_second": rate, "took": 1.0
    }  # fmt: skip
