"""How fast models are here, from their last turns on the engine and their last loads.

Nothing is guessed: a model that was never measured has no speed. An adapter without measurements of its own has the
speed of its base, whose engine runs it. Endpoints, machines and engine options are not told apart; a change of them no
longer counts after RECENT more measurements.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from models_registry.models import Measurement, MeasurementKind, Model
from models_registry.rates import per_second

RECENT = 20  # measurements of a model that count
WINDOW = 160  # requests in flight, where the engine's number is not known
TURNS = (MeasurementKind.BENCHMARK, MeasurementKind.BATCH)
LOADS = (MeasurementKind.BENCHMARK, MeasurementKind.LOAD)

# The newest of each model and kind. Each is found in the index, so the cost does not depend on the table's length.
_NEWEST = f"""
SELECT found.* FROM {Model._meta.db_table} model
CROSS JOIN unnest(%s::text[]) AS kinds (kind)
CROSS JOIN LATERAL (
    SELECT id, model_id, kind, at, requests, input_tokens, output_tokens, seconds, load_seconds, unlimited,
        unlimited_tokens, options, share, at_once, latency_p50, latency_p99, latency_mean
    FROM {Measurement._meta.db_table} WHERE model_id = model.id AND kind = kinds.kind ORDER BY at DESC LIMIT %s
) AS found
WHERE %s::bigint[] IS NULL OR model.id = ANY (%s::bigint[])
ORDER BY found.at DESC
"""  # noqa: S608  (table names only)


@dataclass(frozen=True)
class Answers:
    """How many seconds answers took with `at_once` requests in flight: the median, `most` (the 99th percentile) and the
    mean. requests: how many answers there were."""

    median: float
    most: float
    mean: float
    at_once: float
    requests: int = 1

    def times(self, factor: float) -> "Answers":
        return replace(self, median=self.median * factor, most=self.most * factor, mean=self.mean * factor)


@dataclass(frozen=True)
class Speed:
    """How fast a model is with the engine for itself. Rates are all requests, or tokens, over all seconds of the
    engine, so a long turn counts for more.

    input_tokens, output_tokens: the mean of a request. load_seconds: the median. measurements: how many turns the rates
    rest on. model: whose measurements these are, because an adapter may have its base's; empty when there are none.
    sequences: how many requests the engine ran at once in the last turn, where that is known.

    limited, unlimited: seconds per request with a limit to its answer, and without one; None where none was measured.
    The time of a turn with both kinds is divided between them by the tokens that they wrote. answers: of each turn.
    """

    requests_per_second: float | None = None
    input_tokens_per_second: float | None = None
    output_tokens_per_second: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    load_seconds: float | None = None
    measurements: int = 0
    measured_at: datetime | None = None
    model: str = ""
    sequences: int | None = None
    limited: float | None = None
    unlimited: float | None = None
    answers: tuple[Answers, ...] = ()

    @property
    def window(self) -> int:
        """The window: how many requests are in flight at most."""
        return _window(self.sequences)

    def pace(self, unlimited: float) -> float | None:
        """Seconds per request when this share of them has no limit. None when requests without a limit are needed and
        were never measured; requests with one, if never measured, count as long as those without."""
        if self.requests_per_second is None or (unlimited and self.unlimited is None):
            return None
        limited = self.unlimited if self.limited is None else self.limited
        return (1 - unlimited) * (limited or 0) + unlimited * (self.unlimited or 0)

    def usual(self, at_once: int, unlimited: float) -> Answers | None:
        """How long answers take when this share of them has no limit, from the turns whose number of requests in flight
        was nearest to this one; None where `pace` is None."""
        pace = self.pace(unlimited)
        if pace is None or self.requests_per_second is None or not self.answers:
            return None

        def far(turn: Answers) -> float:
            return abs(math.log(turn.at_once / max(at_once, 1)))

        nearest = min(map(far, self.answers))
        turns = [turn for turn in self.answers if far(turn) <= nearest + math.log(2)]
        weights = [turn.requests for turn in turns]

        def mean(name: str) -> float:
            return statistics.fmean((getattr(turn, name) for turn in turns), weights)

        found = Answers(mean("median"), mean("most"), mean("mean"), mean("at_once"), sum(weights))
        return found.times(pace * self.requests_per_second)

    @property
    def tokens_per_second(self) -> float | None:
        """The tokens per second that `counted` counts; None when there were none."""
        return counted(self.input_tokens_per_second or 0, self.output_tokens_per_second or 0) or None


UNKNOWN = Speed()


def counted(read: float, written: float) -> float:
    """The tokens that `tokens_per_second` counts, for a model and for a batch: those that are written, or, where none
    are written, as with embeddings, those that are read."""
    return written or read


def of(model: Model) -> Speed:
    """The speed of this model, in one query."""
    found = _newest([pk for pk in (model.pk, model.base_id) if pk])
    return _speed((model.pk, model.name), (model.base_id, model.base.name if model.base else ""), found)


def all() -> dict[int, Speed]:
    """The speeds of all models, by their keys, in two queries."""
    found = _newest(None)
    models = {pk: (name, base) for pk, name, base in Model.objects.values_list("pk", "name", "base_id")}
    names = {pk: name for pk, (name, _) in models.items()}
    return {pk: _speed((pk, name), (base, names.get(base, "")), found) for pk, (name, base) in models.items()}


def _newest(models: list[int] | None) -> dict[int, list[Measurement]]:
    """The newest measurements by model, the newest first. models: None is all."""
    found: dict[int, list[Measurement]] = defaultdict(list)
    kinds = [kind.value for kind in MeasurementKind]
    for row in Measurement.objects.raw(_NEWEST, [kinds, RECENT, models, models]):
        found[row.model_id].append(row)
    return found


def _speed(own: tuple[int, str], base: tuple[int | None, str], found: dict[int, list[Measurement]]) -> Speed:
    """The speed from these measurements. own, base: key and name; turns and loads each fall back on the base's."""
    turns: list[Measurement] = []
    loads: list[float] = []
    name = ""
    for pk, called in (own, base):
        rows = found.get(pk, ()) if pk else ()
        if not turns and (turns := _turns(rows)):
            name = called
        loads = loads or [one.load_seconds for one in rows if one.kind in LOADS and one.load_seconds is not None]
    load_seconds = statistics.median(loads[:RECENT]) if loads else None
    if not turns:
        return Speed(load_seconds=load_seconds)
    seconds, requests = sum(one.engine_seconds for one in turns), sum(one.requests for one in turns)
    read, written = sum(one.input_tokens for one in turns), sum(one.output_tokens for one in turns)
    unlimited = sum(min(one.unlimited, one.requests) for one in turns)
    rates = per_second(seconds, requests, read, written)
    longer = sum(one.engine_seconds * _unlimited_part(one) for one in turns)
    return Speed(
        requests_per_second=rates[0],
        input_tokens_per_second=rates[1],
        output_tokens_per_second=rates[2],
        input_tokens=read / requests,
        output_tokens=written / requests,
        load_seconds=load_seconds,
        measurements=len(turns),
        measured_at=turns[0].at,
        model=name,
        sequences=turns[0].options.get("max-num-seqs"),
        limited=(seconds - longer) / (requests - unlimited) if requests > unlimited else None,
        unlimited=longer / unlimited if unlimited else None,
        answers=tuple(map(_answers, turns)),
    )


def _window(sequences: int | None) -> int:
    return math.ceil(sequences * 1.25) if sequences else WINDOW


def _answers(turn: Measurement) -> Answers:
    """The answers of a turn. What was not recorded is computed: how many were in flight at once from the window, the
    mean from that and the time, as if so many had been in flight all the time; median and 99th percentile are then that
    mean."""
    at_once = turn.at_once or min(turn.requests, _window(turn.options.get("max-num-seqs")))
    mean = turn.engine_seconds * at_once / turn.requests
    median, most = turn.latency_p50 or mean, turn.latency_p99 or mean
    return Answers(median, most, turn.latency_mean or min(mean, most), at_once, turn.requests)


def _unlimited_part(turn: Measurement) -> float:
    """The share of the turn's time that went to answers without a limit."""
    if turn.unlimited in (0, turn.requests) or not turn.output_tokens:
        return turn.unlimited / turn.requests
    return min(1.0, turn.unlimited_tokens / turn.output_tokens)


def _turns(rows: Sequence[Measurement]) -> list[Measurement]:
    """The measurements of turns in which something was answered."""
    return [one for one in rows if one.kind in TURNS and one.requests and one.seconds][:RECENT]
