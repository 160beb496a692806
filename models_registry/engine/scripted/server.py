"""The scripted engine: an OpenAI-shaped HTTP server without a model, for tests, demos and the pipeline benchmark.

    python -m models_registry.engine.scripted.server --uds PATH --served-model-name NAME [--latency-ms 20] …

It answers as vLLM does (routes, fields, error bodies, a key from VLLM_API_KEY, at most `--max-num-seqs` requests at
once while the others wait), but each answer repeats its request: the last user message, the prompt or the input. Words
count as tokens. With `stream` it sends the answer word by word. It does not support pipelining (a second request on a
busy connection closes it). It does not depend on vbs.

Directives in that text make it misbehave as soon as the request runs. WITH THEM, ANYBODY WHO SENDS A REQUEST CAN STOP
THIS PROCESS, and with `--counters` WRITE FILES AS ITS USER: run it only where all requests are your own.

    [[crash]]            the process ends at once
    [[status 500]]       this status, with an error body
    [[retry-after 1]]    429 with this Retry-After (seconds)
    [[drop]]             the connection is closed without an answer
    [[garbage]]          200 with a body that is not JSON
    [[hang]]             the request is never answered, and goes on counting as a running one
    [[delay-ms 500]]     the answer takes this much longer
    [[bytes 1000000]]    the answer's text has this many bytes
    [[words 500]]        the answer's text has this many words
    [[cut 3]]            a stream breaks off after so many events

With `--counters`, a directive that ends in `-times` and has two more arguments acts only the first so many times. They
are counted in a file, so that the count survives a restart: [[crash-times 2 /tmp/count]],
[[status-times 503 2 /tmp/count]].

`--journal PATH` appends one line for each POST received, also by later processes: {"at": unix seconds, "pid": int,
"path": "/v1/…", "text": "the text that the answer repeats", "body": sha1 of the body}.
With VLLM_SERVER_DEV_MODE=1 in the environment it has POST /sleep, POST /wake_up and GET /is_sleeping, as vLLM.
GET /metrics has the figures of the requests that run and wait, under vLLM's names. With `--kv-tokens` the cache of keys
and values is bounded: what does not fit any more goes back into the queue (`scripted.schedule`).
GET /stats says {"received", "queued", "running", "answered", "aborted"} of this process: received counts the POSTs
that came whole, answered every response to one of them, aborted those whose client went away before.
"""

import argparse
import asyncio
import hashlib
import os
import signal
import time
import traceback
from http import HTTPStatus
from pathlib import Path
from typing import cast

import httptools
import orjson

from models_registry.engine.scripted.answers import NOT_FOUND, Body, RequestRefused, check, parse, route
from models_registry.engine.scripted.directives import FOREVER, Script, ScriptedReply, read_script
from models_registry.engine.scripted.schedule import LOOK_SECONDS, Schedule, ScriptedRequest
from models_registry.engine.scripted.start import load, read_options
from models_registry.engine.scripted.streams import events

CRASHED = 134  # as if by SIGABRT
DEV_MODE = os.environ.get("VLLM_SERVER_DEV_MODE") == "1"
SLEEP_ROUTES = {"/sleep": True, "/wake_up": False}
LORA_ROUTES = {"/v1/load_lora_adapter": True, "/v1/unload_lora_adapter": False}
_PHRASES: dict[int, str] = {status.value: status.phrase for status in HTTPStatus}
_PLAIN = Script()
CUT = b"cut"  # in the place of an event: the connection breaks


class Server:
    """What all connections share: the requests that run and wait, the adapters, and the counters."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.token = f"Bearer {key}".encode() if (key := os.environ.get("VLLM_API_KEY")) else None
        self.schedule = Schedule(options, self._run, self._finish)
        self.received = self.answered = self.aborted = 0
        self.adapters: dict[str, str] = {}
        self.asleep = False
        self.slept = 0  # times
        self.journal: int | None = None
        if options.journal:
            self.journal = os.open(options.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def receive(self, connection: "Connection", path: str, content: bytes) -> None:
        self.received += 1
        text = adapter = ""
        refusal = None
        try:
            if self.options.enable_lora and path in LORA_ROUTES:
                self.answer(connection, self._lora(LORA_ROUTES[path], parse(content)))
                return
            if path in SLEEP_ROUTES and DEV_MODE:
                self.answer(connection, self._sleep(SLEEP_ROUTES[path]))
                return
            if self.asleep:
                raise RequestRefused(503, "The engine is sleeping.", kind="ServiceUnavailableError")
            if not (found := route(path, self.options.task)):
                self.answer(connection, ScriptedReply(404, NOT_FOUND))
                return
            read, respond = found
            body = parse(content)
            text = read(body)
            check(body, {self.options.served_model_name, *self.adapters})
            if folder := self.adapters.get(str(body.get("model"))):
                text, adapter = f"{text} (as {Path(folder).name} says it)", str(body["model"])
        except RequestRefused as error:
            refusal = error
        if self.journal is not None:
            self._note(self.journal, path, text, content)
        if refusal:
            self.answer(connection, ScriptedReply(refusal.status, refusal.body))
            return
        connection.job = job = ScriptedRequest(connection, path, body, text, respond, adapter)
        if self.options.crash_above is not None and len(self.schedule) >= self.options.crash_above:
            os._exit(CRASHED)
        self.schedule.add(job)

    def _run(self, job: ScriptedRequest) -> None:
        if job.reply is None and not self._demand(job):
            return
        if job.seconds:
            self.schedule.runs(job, job.seconds)
            self._stream(job)
        else:
            self._finish(job)

    def _stream(self, job: ScriptedRequest) -> None:
        """Send the events that have come due by now, and go on in a moment. One that was sent before the request went
        back into the queue is not sent again."""
        if job.began is None or job.reply is None or job.reply.events is None:
            return
        job.connection.begin(job.reply)
        writing = self.options.token_ms * job.tokens / 1000
        since = self.loop.time() - job.began - (job.seconds - writing)  # the first word
        if since >= 0 and writing and job.seconds != FOREVER:
            due = int(len(job.reply.events) * min(1.0, since / writing))
            for event in job.reply.events[job.sent : due]:
                job.connection.piece(event)
            job.sent = max(job.sent, due)
        self.loop.call_later(LOOK_SECONDS, self._stream, job)

    def _demand(self, job: ScriptedRequest) -> bool:
        """Do what its directives demand, and prepare its reply. False when there is none."""
        script = read_script(job.text, self.options.counters) if "[[" in job.text else _PLAIN
        if script.crash:
            os._exit(CRASHED)
        if script.drop:
            job.connection.job = None
            job.connection.transport.abort()
            return False
        job.reply = script.reply
        if job.reply is None:
            said = script.said(job.text)
            if self.slept and self.options.after_sleep == "nonsense":
                said = said[::-1]
            answer, job.tokens = job.respond(job.body, said)
            job.reply = ScriptedReply(200, orjson.dumps(answer), events(job.path, job.body, answer))
            if script.cut is not None and job.reply.events is not None:
                job.reply.events[script.cut :] = [CUT]
        job.seconds = (self.options.latency_ms + job.tokens * self.options.token_ms + script.extra_ms) / 1000
        return True

    def _finish(self, job: ScriptedRequest) -> None:
        assert job.reply
        job.connection.job = None
        self.answer(job.connection, job.reply, job.sent)
        if job.began is not None:
            self.schedule.leave(job)

    def abort(self, job: ScriptedRequest) -> None:
        """The client of this request is gone."""
        self.aborted += 1
        self.schedule.give_up(job)

    def answer(self, connection: "Connection", reply: ScriptedReply, sent: int = 0) -> None:
        if self.answered == self.options.crash_after:
            return  # the process is about to end
        self.answered += 1
        connection.send(reply, sent)
        if self.answered == self.options.crash_after:
            self.loop.call_later(0.01, os._exit, CRASHED)

    def get(self, path: str) -> ScriptedReply:
        if path == "/health":
            return ScriptedReply(200, b"")
        if path == "/is_sleeping" and DEV_MODE:
            return ScriptedReply(200, orjson.dumps({"is_sleeping": self.asleep}))
        if path == "/stats":
            stats = {name: getattr(self, name) for name in ("received", "answered", "aborted")}
            stats |= {"queued": len(self.schedule.waiting), "running": len(self.schedule.running)}
            return ScriptedReply(200, orjson.dumps(stats))
        if path == "/metrics":
            return ScriptedReply(200, self.schedule.metrics(), content_type="text/plain; version=0.0.4; charset=utf-8")
        if path == "/v1/models":
            common = {"object": "model", "created": int(time.time()), "owned_by": "scripted"}
            base = self.options.served_model_name
            models = [{"id": base, "parent": None, "max_model_len": self.options.max_model_len}]
            models += [{"id": name, "parent": base, "root": path} for name, path in self.adapters.items()]
            return ScriptedReply(200, orjson.dumps({"object": "list", "data": [model | common for model in models]}))
        return ScriptedReply(404, NOT_FOUND)

    def _lora(self, load: bool, body: Body) -> ScriptedReply:
        """Load or unload an adapter, which is a folder. Answers of the adapter end in the folder's name."""
        name, path = str(body.get("lora_name", "")), str(body.get("lora_path", ""))
        if load and (not name or name in self.adapters):
            raise RequestRefused(400, f"The lora adapter '{name}' has already been loaded.", "lora_name")
        if load and not (Path(path) / "adapter_config.json").exists():
            raise RequestRefused(404, f"Loading lora {name} failed: No adapter found for {path}")
        if load and (rank := _rank(path)) > self.options.max_lora_rank:
            message = f"LoRA rank {rank} is greater than max_lora_rank {self.options.max_lora_rank}."
            raise RequestRefused(500, message, kind="InternalServerError")
        if not load and name not in self.adapters:
            raise RequestRefused(404, f"The lora adapter '{name}' cannot be found.", kind="NotFoundError")
        if load:
            self.adapters[name] = path
        else:
            del self.adapters[name]
        return ScriptedReply(
            200, f"Success: LoRA adapter '{name}' {'added' if load else 'removed'} successfully.".encode()
        )

    def _sleep(self, sleep: bool) -> ScriptedReply:
        if sleep and not self.options.enable_sleep_mode:
            raise RequestRefused(500, "Sleep mode is not enabled", kind="InternalServerError")
        if not sleep and self.options.after_sleep == "die":
            os._exit(CRASHED)
        if not sleep and self.options.after_sleep == "refuse":
            raise RequestRefused(500, "CUDA out of memory while waking up", kind="InternalServerError")
        self.asleep = sleep
        self.slept += sleep
        return ScriptedReply(
            200, orjson.dumps({"status": "sleeping", "level": 1} if sleep else {"status": "awake", "tags": None})
        )

    @staticmethod
    def _note(journal: int, path: str, text: str, content: bytes) -> None:
        digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        entry = {"at": time.time(), "pid": os.getpid(), "path": path, "text": text, "body": digest}
        os.write(journal, orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))


def _rank(folder: str) -> int:
    return int(orjson.loads((Path(folder) / "adapter_config.json").read_bytes()).get("r", 8))


class Connection(asyncio.Protocol):
    """One client's connection: bytes to requests, replies to bytes."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.job: ScriptedRequest | None = None
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.authorization: bytes | None = None
        self.body: list[bytes] = []
        self.begun = False  # the head of a stream was sent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.job:
            self.server.abort(self.job)
            self.job = None

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            if isinstance(error, httptools.HttpParserCallbackError):  # an error in our code, not the client's
                traceback.print_exc()
            self.transport.abort()

    def on_message_begin(self) -> None:
        if self.job:
            self.transport.abort()
        self.url, self.authorization, self.body = b"", None, []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 13 and name.lower() == b"authorization":
            self.authorization = value

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        if self.transport.is_closing():
            return
        path = self.url.partition(b"?")[0].decode("latin-1")
        if path.startswith("/v1/") and self.server.token not in (None, self.authorization):
            self.send(ScriptedReply(401, b'{"error":"Unauthorized"}'))
        elif self.parser.get_method() == b"POST":
            self.server.receive(self, path, b"".join(self.body))
        else:
            self.send(self.server.get(path))

    def send(self, reply: ScriptedReply, sent: int = 0) -> None:
        """sent: the events of a stream that the client has."""
        if reply.events is None:
            self._head(reply, f"content-length: {len(reply.body)}")
            self.transport.write(reply.body)
        else:
            self.begin(reply)
            for event in reply.events[sent:]:
                self.piece(event)
            self.transport.write(b"0\r\n\r\n")
        self.begun = False
        if not self.parser.should_keep_alive():
            self.transport.close()

    def begin(self, reply: ScriptedReply) -> None:
        """Send the head of a stream, once."""
        if not self.begun:
            self.begun = True
            reply.content_type = "text/event-stream; charset=utf-8"
            self._head(reply, "transfer-encoding: chunked")

    def piece(self, event: bytes) -> None:
        if event is CUT:
            self.transport.abort()
        else:
            self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))

    def _head(self, reply: ScriptedReply, length: str) -> None:
        last = "\r\n" if self.parser.should_keep_alive() else "connection: close\r\n\r\n"
        head = (
            f"HTTP/1.1 {reply.status} {_PHRASES.get(reply.status, '')}\r\ncontent-type: {reply.content_type}\r\n"
            f"{reply.extra_headers}{length}\r\n{last}"
        )
        self.transport.write(head.encode())


async def _serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    server = Server(options)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    listening: asyncio.Server
    if options.uds:
        listening = await loop.create_unix_server(lambda: Connection(server), options.uds, backlog=2048)
    else:
        listening = await loop.create_server(lambda: Connection(server), options.host, options.port, backlog=2048)
    print(f"Listening on {listening.sockets[0].getsockname()}", flush=True)
    print(f"INFO:     Started server process [{os.getpid()}]\nINFO:     Application startup complete.", flush=True)
    await stop.wait()


def main() -> None:
    options = read_options(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # also while it is loading
    load(options)
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(options))
    else:
        uvloop.run(_serve(options))


if __name__ == "__main__":
    main()
