"""Which requests of the scripted engine run and which wait, as vLLM's scheduler would have it, and its figures for it.

At most `--max-num-seqs` requests run at once, with at most `--max-loras` different adapters. With `--kv-tokens` they
share a cache of so many tokens: each holds its prompt and what it has written so far. A request is let in as soon as
its prompt fits. When the cache is full, the newest goes back to the head of the queue, and begins anew. With
`--read-ms` all that run stand still while the tokens of one that is let in are read, which are its prompt and what it
had written before it was sent back.
"""

import argparse
import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from models_registry.engine.scripted.answers import Body, Respond
from models_registry.engine.scripted.directives import FOREVER, ScriptedReply

if TYPE_CHECKING:
    from models_registry.engine.scripted.server import Connection

LOOK_SECONDS = 0.01  # between two looks whether what is written still fits into the cache


class ScriptedRequest:
    """One request, from the moment it is complete until it is answered or its client is gone.

    reply: from its first run on. seconds: that a run takes. began: when the present one began, None while it waits.
    prompt, tokens: those that it reads, and those that it writes one after the other. needs: the tokens for which there
    has to be room before it runs. sent: how many events of a stream the client has.
    """

    __slots__ = (
        *("adapter", "began", "body", "connection", "needs", "path", "prompt", "reply", "respond", "seconds", "sent"),
        *("text", "timer", "tokens"),
    )

    def __init__(
        self, connection: "Connection", path: str, body: Body, text: str, respond: Respond, adapter: str = ""
    ) -> None:
        self.connection, self.path, self.body = connection, path, body
        self.text, self.respond, self.adapter = text, respond, adapter
        self.reply: ScriptedReply | None = None
        self.prompt = self.needs = len(text.split())
        self.tokens = self.sent = 0
        self.seconds = 0.0
        self.began: float | None = None
        self.timer: asyncio.TimerHandle | None = None

    def written(self, now: float) -> int:
        """The tokens that it has written by now, a time in which what runs did not stand still."""
        if self.began is None or not self.seconds:
            return 0
        return int(self.tokens * min(1.0, (now - self.began) / self.seconds))


class Schedule:
    """The requests that run, the oldest first, and the queue of those that wait.

    run: begins a request; it calls `runs`, unless the request ends at once. finish: ends it.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        run: Callable[[ScriptedRequest], None],
        finish: Callable[[ScriptedRequest], None],
    ) -> None:
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.running: dict[ScriptedRequest, None] = {}
        self.waiting: deque[ScriptedRequest] = deque()
        self.preemptions = 0
        self._written = 0  # by what does not run any more
        self._still = 0.0  # seconds for which what runs has stood still, or is going to
        self._still_until = 0.0
        self._run, self._finish = run, finish
        self._looking = False

    def __len__(self) -> int:
        return len(self.running) + len(self.waiting)

    def add(self, request: ScriptedRequest) -> None:
        self.waiting.append(request)
        self._admit()

    def _admit(self) -> None:
        """Run what waits, in order, as long as there is room. Those that wait for a free adapter's place do not hold up
        the others."""
        held_up: list[ScriptedRequest] = []
        while self.waiting and len(self.running) < self.options.max_num_seqs:
            request = self.waiting.popleft()
            if not self._has_place(request.adapter):
                held_up.append(request)
            elif self._fits(request):
                self._run(request)
            else:
                self.waiting.appendleft(request)
                break
        self.waiting.extendleft(reversed(held_up))

    def _has_place(self, adapter: str) -> bool:
        used = {request.adapter for request in self.running if request.adapter} if adapter else set()
        return adapter in used or len(used) < self.options.max_loras

    def _fits(self, request: ScriptedRequest) -> bool:
        most = self.options.kv_tokens
        return most is None or not self.running or self.held() + request.needs <= most

    def runs(self, request: ScriptedRequest, seconds: float) -> None:
        """The request runs from now on for so long, which may be FOREVER."""
        if self.options.read_ms:
            self._stand_still(request.needs * self.options.read_ms / 1000)
        request.began, request.seconds = self._now(), seconds
        self.running[request] = None
        self._set_timer(request)
        if self.options.kv_tokens is not None and not self._looking:
            self._looking = True
            self.loop.call_later(LOOK_SECONDS, self._look)

    def _set_timer(self, request: ScriptedRequest) -> None:
        assert request.began is not None
        if request.timer:
            request.timer.cancel()
        if request.seconds != FOREVER:
            request.timer = self.loop.call_at(request.began + request.seconds + self._still, self._finish, request)

    def _stand_still(self, seconds: float) -> None:
        self._still += seconds
        self._still_until = max(self._still_until, self.loop.time()) + seconds
        for request in self.running:
            self._set_timer(request)

    def _now(self) -> float:
        """The time, less that for which what runs has stood still."""
        return max(self.loop.time(), self._still_until) - self._still

    def leave(self, request: ScriptedRequest) -> None:
        """A request that runs has ended."""
        self._stop(request, request.tokens)
        self._admit()

    def give_up(self, request: ScriptedRequest) -> None:
        """Nobody wants this request's answer any more."""
        if request in self.running:
            self._stop(request, request.written(self._now()))
            self._admit()
        else:
            self.waiting.remove(request)

    def _stop(self, request: ScriptedRequest, written: int) -> None:
        self._written += written
        del self.running[request]
        request.began = None
        if request.timer:
            request.timer.cancel()

    def held(self) -> int:
        """Tokens in the cache."""
        now = self._now()
        return sum(request.prompt + request.written(now) for request in self.running)

    def written(self) -> int:
        """Tokens written since the start."""
        now = self._now()
        return self._written + sum(request.written(now) for request in self.running)

    def _look(self) -> None:
        """As long as the cache is too full, send the newest request back to the queue."""
        while self.held() > self.options.kv_tokens and len(self.running) > 1:
            newest = next(reversed(self.running))
            written = newest.written(self._now())
            newest.needs = newest.prompt + written
            self._stop(newest, written)
            self.waiting.appendleft(newest)
            self.preemptions += 1
        self._looking = bool(self.running)
        if self._looking:
            self.loop.call_later(LOOK_SECONDS, self._look)

    def metrics(self) -> bytes:
        """The figures of this schedule, as vLLM's /metrics has them; none with --disable-log-stats."""
        if self.options.disable_log_stats:
            return b""
        usage = self.held() / self.options.kv_tokens if self.options.kv_tokens else 0.0
        figures = (
            ("gauge", "num_requests_running", "Number of requests in model execution batches.", len(self.running)),
            ("gauge", "num_requests_waiting", "Number of requests waiting to be processed.", len(self.waiting)),
            ("gauge", "kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", usage),
            ("counter", "num_preemptions_total", "Cumulative number of preemption from the engine.", self.preemptions),
            ("counter", "generation_tokens_total", "Number of generation tokens processed.", self.written()),
        )
        name = self.options.served_model_name.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        lines = [
            f"# HELP vllm:{key} {words}\n# TYPE vllm:{key} {kind}\n"
            f'vllm:{key}{{engine="0",model_name="{name}"}} {float(value)}\n'
            for kind, key, words, value in figures
        ]
        return "".join(lines).encode()
