"""How fast models are here, from what was measured: the last turns on the engine, and the last loads.

Nothing is guessed: of a model that was never measured there are no speeds. An adapter that has no measurements of its
own has its base's, whose engine runs it. Endpoints, machines and engine options are not told apart: what has changed
is out of the picture after RECENT more measurements. Knows no batches.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from models_registry.models import Measurement, MeasurementKind, Model

RECENT = 20  # measurements of a model that count
TURNS = (MeasurementKind.BENCHMARK, MeasurementKind.BATCH)
LOADS = (MeasurementKind.BENCHMARK, MeasurementKind.LOAD)

# The newest of each kind, each found by its place in the index: it costs the same however long the table is.
_NEWEST = f"""
SELECT found.* FROM {Model._meta.db_table} model
CROSS JOIN unnest(%s::text[]) AS kinds (kind)
CROSS JOIN LATERAL (
    SELECT id, model_id, kind, at, requests, input_tokens, output_tokens, seconds, latency_p99, load_seconds,
        unlimited, unlimited_tokens, options
    FROM {Measurement._meta.db_table} WHERE model_id = model.id AND kind = kinds.kind ORDER BY at DESC LIMIT %s
) AS found
WHERE %s::bigint[] IS NULL OR model.id = ANY (%s::bigint[])
ORDER BY found.at DESC
"""  # noqa: S608  (table names only)


@dataclass(frozen=True)
class Speed:
    """Rates are all requests, or tokens, over all seconds, so a long turn counts for more than a short one.

    input_tokens, output_tokens: of a request, on average. load_seconds: the median. measurements: how many turns are
    behind the rates. model: whose they are, for an adapter may have its base's; empty when there are none. sequences:
    how many requests the engine ran at once in the last of them, where that is known.

    limited, unlimited: seconds per request whose answer has a limit, and that has none, each None where none was
    measured: the time of a turn with both is divided among them by the tokens that they wrote. latency: seconds that
    99 of 100 are in flight at most, the median of the turns.
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
    latency: float | None = None

    def pace(self, unlimited: float) -> float | None:
        """Seconds per request when such a part of them has no limit. It is not known where none like that was
        measured; those that have one are then at most as long as those that have none."""
        if self.requests_per_second is None or (unlimited and self.unlimited is None):
            return None
        limited = self.unlimited if self.limited is None else self.limited
        return (1 - unlimited) * (limited or 0) + unlimited * (self.unlimited or 0)

    @property
    def tokens_per_second(self) -> float | None:
        """As `counted` counts them; None where none were told."""
        return counted(self.input_tokens_per_second or 0, self.output_tokens_per_second or 0) or None


UNKNOWN = Speed()


def counted(read: float, written: float) -> float:
    """What `tokens_per_second` counts, of a model and of a batch, wherever it is told: the tokens that are written, and
    where none are, as of embeddings, those that are read."""
    return written or read


def of(model: Model) -> Speed:
    """One query."""
    found = _newest([pk for pk in (model.pk, model.base_id) if pk])
    return _speed((model.pk, model.name), (model.base_id, model.base.name if model.base else ""), found)


def all() -> dict[int, Speed]:
    """Of every model, by its key. Two queries."""
    found = _newest(None)
    models = {pk: (name, base) for pk, name, base in Model.objects.values_list("pk", "name", "base_id")}
    names = {pk: name for pk, (name, _) in models.items()}
    return {pk: _speed((pk, name), (base, names.get(base, "")), found) for pk, (name, base) in models.items()}


def _newest(models: list[int] | None) -> dict[int, list[Measurement]]:
    """By model, the newest first. None: of all models."""
    found: dict[int, list[Measurement]] = defaultdict(list)
    kinds = [kind.value for kind in MeasurementKind]
    for row in Measurement.objects.raw(_NEWEST, [kinds, RECENT, models, models]):
        found[row.model_id].append(row)
    return found


def _speed(own: tuple[int, str], base: tuple[int | None, str], found: dict[int, list[Measurement]]) -> Speed:
    """`own`, `base`: key and name. Turns and loads each fall back on the base's."""
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
    seconds, requests = sum(one.seconds or 0 for one in turns), sum(one.requests for one in turns)
    read, written = sum(one.input_tokens for one in turns), sum(one.output_tokens for one in turns)
    unlimited = sum(min(one.unlimited, one.requests) for one in turns)
    longer = sum((one.seconds or 0) * _unlimited_part(one) for one in turns)
    latencies = [one.latency_p99 for one in turns if one.latency_p99 is not None]
    return Speed(
        requests_per_second=requests / seconds,
        input_tokens_per_second=read / seconds,
        output_tokens_per_second=written / seconds,
        input_tokens=read / requests,
        output_tokens=written / requests,
        load_seconds=load_seconds,
        measurements=len(turns),
        measured_at=turns[0].at,
        model=name,
        sequences=turns[0].options.get("max-num-seqs"),
        limited=(seconds - longer) / (requests - unlimited) if requests > unlimited else None,
        unlimited=longer / unlimited if unlimited else None,
        latency=statistics.median(latencies) if latencies else None,
    )


def _unlimited_part(turn: Measurement) -> float:
    """Which part of its time went to answers without a limit."""
    if turn.unlimited in (0, turn.requests) or not turn.output_tokens:
        return turn.unlimited / turn.requests
    return min(1.0, turn.unlimited_tokens / turn.output_tokens)


def _turns(rows: Sequence[Measurement]) -> list[Measurement]:
    """Those that tell how fast it is. A turn in which nothing was answered tells nothing."""
    return [one for one in rows if one.kind in TURNS and one.requests and one.seconds][:RECENT]
