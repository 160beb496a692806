"""Tunes a model: its engine is started with one setting after the other, and answers the same requests with each.

What was measured is in the operation's row at once, so whoever goes on after an interruption measures the rest. The
model's own options change only where the fastest setting is kept, in one transaction.
"""

import time
from collections.abc import Iterator
from typing import Any, cast

from models_registry import workloads
from models_registry.catalog import rules
from models_registry.catalog.folders import ModelError
from models_registry.engine import defaults, options
from models_registry.engine.client import Call
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.machine import installed
from models_registry.engine.server import Engine
from models_registry.engine.spec import EngineKind
from models_registry.gpu import benchmark
from models_registry.gpu.operation_turn import OperationFailed, OperationTurn
from models_registry.gpu.tuning import candidates
from models_registry.gpu.tuning.candidates import Candidate, Tuning
from models_registry.gpu.tuning.keep import keep
from models_registry.gpu.tuning.search import Facts, Setting, changed, search
from models_registry.gpu.window import in_flight, limits
from models_registry.models import READING, Model
from models_registry.speed.measurements import Tally
from vbs.configuration import audit

SLOWER = 1.5  # times as long as the fastest: then a candidate has lost, and is not measured to the end
WARMING = 4  # requests before the measurement, so that what an engine does once is not measured


class _Over(Exception):
    """The measurement of a candidate ends early. The message says why."""


class _OutOfTime(Exception):
    """The time that the operation has is over."""


def tune(turn: OperationTurn) -> dict[str, Any]:
    """Returns the result. Raises LoadError, OperationFailed, OperationStopped."""
    turn.makes_room, turn.goes_on = True, True
    try:
        return cast(dict[str, Any], _Run(turn).run())
    finally:
        turn.gpu.unload(turn.model)  # nobody but this operation wants these engines


class _Run:
    """A turn of the operation: the first one, or one after an interruption."""

    def __init__(self, turn: OperationTurn) -> None:
        self.turn, self.model = turn, turn.model
        found = cast(Tuning | None, turn.kept)
        if found and found["own"] != self.model.engine_args and not found["kept"]:
            turn.say("The model's engine options were changed meanwhile: it begins anew.")
            found = None
        self.tuning: Tuning = found or _nothing(self.model)
        self.seconds = 60 * float(turn.options["minutes"])
        self.before = sum(one["took"] for one in self.tuning["candidates"])  # in earlier turns
        self.began = time.monotonic()
        self.calls: list[tuple[str, bytes]] = []

    def run(self) -> Tuning:
        tuning = self.tuning
        if tuning["kept"]:  # it ended just after that
            return tuning
        if (lost := tuning["trying"]) is not None:
            tuning["trying"] = None
            if lost:  # without changes it is tried again, for nothing else could be compared
                self._add(candidates.unmeasured(lost, "The worker died while this was tried."))
        self.calls = self._sample()
        try:
            if not tuning["candidates"]:
                self._try({})
            if error := tuning["candidates"][0]["error"]:
                raise OperationFailed(f"nothing can be compared, because the model as it is was not measured: {error}")
            self._search()
            tuning["ended"] = "Everything was tried that could matter."
        except _OutOfTime:
            tuning["trying"], tuning["ended"] = None, f"The {self.turn.options['minutes']} minutes are over."
            if not tuning["candidates"]:
                raise OperationFailed("the time is over before the model as it is was measured: give it more") from None
        self.turn.say(f"{tuning['ended']} {_verdict(tuning)}")
        self.turn.keep(cast(dict[str, Any], tuning))
        if self.turn.options["keep"] and tuning["best"]:
            try:
                keep(self.turn.operation, self._record, self.turn.gpu.worker.pk)
            except ModelError as error:
                raise OperationFailed(f"the fastest setting is not kept: {error}") from error
            tuning["kept"] = True
            self.turn.say(f"{self.model.name} has this setting now.")
        return tuning

    def _record(self, detail: str) -> None:
        audit.record_later(self.turn.operation.asked_by, "model.edit", self.model.name, detail)

    def _search(self) -> None:
        tuning, facts = self.tuning, self._facts()
        tried = search(tuning["options"], facts)
        tuning["best"], best = {}, tuning["candidates"][0]
        try:
            setting = next(tried)
            while True:
                found = candidates.find(tuning, setting) or self._try(setting)
                if better := candidates.is_better(found, best):
                    best = found
                    tuning["best"] = setting
                    tuning["gain"] = _gain(tuning)
                setting = tried.send(better)
        except StopIteration:
            pass

    def _facts(self) -> Facts:
        return Facts(
            takes=lambda option: _takes(self.model, option),
            requests=len(self.calls),
            input_tokens=self.tuning["input_tokens"],
            context=self.tuning["options"].get("max-model-len", self.model.context_length),
            writes=self.model.task not in READING,
            on_cpu=self.model.kind == EngineKind.VLLM and not defaults.gpu_memory(),
        )

    def _left(self) -> float:
        return self.seconds - self.before - (time.monotonic() - self.began)

    # One candidate

    def _try(self, setting: Setting) -> Candidate:
        """Measure a setting, and keep what was measured. Raises _OutOfTime, OperationStopped."""
        expected = max((one["took"] for one in self.tuning["candidates"][-3:]), default=0.0)
        if self._left() < expected / 2:
            raise _OutOfTime
        self.turn.say(f"{candidates.words(setting)} …")
        self.turn.progress(f"trying {candidates.words(setting)}", 100 * (1 - self._left() / self.seconds))
        self.tuning["trying"] = setting
        self.turn.keep(cast(dict[str, Any], self.tuning))
        began = time.monotonic()
        try:
            found = self._measured(setting)
        except (LoadError, OperationFailed, ModelError) as error:
            found = candidates.unmeasured(setting, str(error), time.monotonic() - began)
        except BaseException:  # stopped, or out of time: the next turn tries it again
            self.tuning["trying"] = None
            self.turn.keep(cast(dict[str, Any], self.tuning))
            raise
        found["took"] = time.monotonic() - began
        self._add(found)
        return found

    def _add(self, found: Candidate) -> None:
        self.tuning["trying"] = None
        self.tuning["candidates"].append(found)
        self.turn.keep(cast(dict[str, Any], self.tuning))
        self.turn.say(f"{candidates.words(found['setting'])}: {candidates.said(found)}")

    def _measured(self, setting: Setting) -> Candidate:
        model, is_first = self.model, not self.tuning["candidates"]
        own = rules.check_options(EngineKind(model.kind), changed(model.engine_args, setting), on_server=False)
        engine = self._start(own)
        if is_first:
            self.tuning["options"] = engine.started.options
        window = in_flight(engine)
        warming = _calls(self.calls[: min(WARMING, len(self.calls))])
        self.turn.drive(benchmark.many(engine, warming, limits(), window, Tally(), []), self._watch)
        tally, errors, sending = Tally(), list[str](), time.monotonic()

        def watch() -> None:
            self._watch()
            if not is_first and (passed := time.monotonic() - sending) > SLOWER * self._fastest():
                raise _Over(f"It was slower, and was not measured beyond {passed:.0f} s.")

        error = ""
        try:
            self.turn.drive(benchmark.many(engine, _calls(self.calls), limits(), window, tally, errors), watch)
        except _Over as over:
            error = str(over)
        if not tally.requests and not error:
            raise OperationFailed(f"every request failed: {errors[0]}")
        if is_first:
            self.tuning["input_tokens"] = tally.input_tokens
        rates, fields = tally.rates, tally.fields()
        tokens = "input_tokens_per_second" if model.task in READING else "output_tokens_per_second"
        return {
            "setting": setting,
            "requests": tally.requests,
            "failed": tally.failed,
            "requests_per_second": rates["requests_per_second"],
            "tokens_per_second": rates[tokens],
            "latency_p50": fields["latency_p50"],
            "load_seconds": engine.started.seconds,
            "less": engine.started.reduced,
            "took": 0.0,
            "error": error,
        }

    def _fastest(self) -> float:
        """Seconds that the fastest setting so far took for all requests."""
        best = candidates.best_of(self.tuning)
        return best["requests"] / best["requests_per_second"] if best["requests_per_second"] else float("inf")

    def _start(self, own: dict[str, Any]) -> Engine:
        def on_progress(doing: str) -> None:
            self.turn.check()
            self._watch()

        self._watch()
        with self.turn.loading():
            return self.turn.gpu.try_out(self.model, own, on_progress)

    def _watch(self) -> None:
        """Raises _OutOfTime."""
        self.turn.progress(percent=100 * (1 - self._left() / self.seconds))
        if self._left() <= 0:
            raise _OutOfTime

    # The sample

    def _sample(self) -> list[tuple[str, bytes]]:
        """Paths and bodies of the requests, in every turn of the operation the same ones, or as long ones."""
        given = self.turn.options
        if given["file"]:
            found = workloads.sample(given["file"], self.model, given["requests"], given["seed"], self.turn.check)
            self.tuning["sample"] = f"{len(found):,} requests of {given['file']}"
        else:
            found = [(call.path, call.body) for call in benchmark.calls(self.model, given)]
            self.tuning["sample"] = f"{len(found):,} made-up requests"
        self.turn.say(f"Measures with {self.tuning['sample']}.")
        return found


def _nothing(model: Model) -> Tuning:
    return {
        "own": model.engine_args,
        "options": {},
        "candidates": [],
        "trying": None,
        "best": {},
        "gain": None,
        "kept": False,
        "sample": "",
        "input_tokens": 0,
        "ended": "",
    }


def _calls(sample: list[tuple[str, bytes]]) -> Iterator[Call]:
    return (Call(number, path, body) for number, (path, body) in enumerate(sample))


def _takes(model: Model, option: str) -> bool:
    """Has this model's engine the option, as a model may set it?"""
    if model.kind == EngineKind.SCRIPTED:
        try:
            rules.check_options(EngineKind.SCRIPTED, {option: 1})
        except ModelError:
            return False
        return True
    known = installed.forms(installed.root())
    return option in options.OPTIONS and (not known or option in known)


def _gain(tuning: Tuning) -> float:
    return candidates.best_of(tuning)["tokens_per_second"] / tuning["candidates"][0]["tokens_per_second"]


def _verdict(tuning: Tuning) -> str:
    if not tuning["best"]:
        return "Nothing was faster than the model as it is."
    return f"The fastest: {candidates.words(tuning['best'])}, {tuning['gain']:.2f} times as fast as the model as it is."
