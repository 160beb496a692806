"""Makes up requests to test a model, and to measure it, and sends them.

Each prompt of a benchmark begins with words that no other run has, so an engine that caches prefixes gains nothing from
earlier requests.
"""

import random
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import orjson

from models_registry.engine import error_bodies
from models_registry.engine.client import Answer, Call, Client, Limits
from models_registry.engine.server import Engine
from models_registry.engine.spec import EngineKind
from models_registry.models import READING, Model, Task
from models_registry.speed.measurements import Tally

# Short and frequent words, which are one token each for most tokenizers.
_FREQUENT = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work government number night point home water room "
    "mother area money story fact month lot right study book eye job word business issue side kind head house "
    "service friend father power hour game line end member law car city community name president team minute idea "
    "kid body back"
)
WORDS = _FREQUENT.split()


def body(model: Model, prompt: str, max_tokens: int = 1, temperature: float = 0) -> tuple[str, dict[str, Any]]:
    """The path below `/v1`, and the body of the request."""
    if model.task == Task.EMBEDDING:
        return "/embeddings", {"model": model.name, "input": prompt}
    if model.task == Task.SCORE:
        half = len(prompt) // 2
        return "/score", {"model": model.name, "queries": prompt[:half] or prompt, "documents": prompt[half:]}
    limits = {"max_tokens": max_tokens, "temperature": temperature}
    if model.task == Task.COMPLETION:
        return "/completions", {"model": model.name, "prompt": prompt} | limits
    return "/chat/completions", {"model": model.name, "messages": [{"role": "user", "content": prompt}]} | limits


def call(key: int, model: Model, path: str, given: dict[str, Any]) -> Call:
    return Call(key, path, orjson.dumps(given | {"model": model.served_name}))


def prompts(count: int, words: int, seed: int) -> Iterator[str]:
    """Prompts with the same words for the same seed, after a beginning that no other prompt of any run has."""
    run = secrets.token_hex(4)
    for number in range(count):
        chosen = random.Random(f"{seed} {number}").choices(WORDS, k=words)
        yield f"{number} {run} {' '.join(chosen)}"


def calls(model: Model, options: dict[str, Any]) -> Iterator[Call]:
    """The calls of a benchmark with these options. Their answers have different lengths, from half of `max_tokens`, so
    that they end one by one as in a batch. Our own engine writes exactly so many tokens (ignore_eos)."""
    exactly = {"ignore_eos": True} if model.kind == EngineKind.VLLM and model.task not in READING else {}
    given = prompts(options["requests"], options["prompt_tokens"], options["seed"])
    for number, prompt in enumerate(given):
        most = options.get("max_tokens", 1)
        length = random.Random(f"{options['seed']} {number} length").randint((most + 1) // 2, most)
        path, made = body(model, prompt, length)
        yield call(number, model, path, made | exactly)


async def one(engine: Engine, given: Call, limits: Limits) -> Answer:
    """Send one call. Raises EngineDied."""

    async def alone() -> AsyncIterator[Call]:
        yield given

    async with aclosing(Client(engine, limits).answers(alone(), window=1)) as answers:
        return await anext(answers)


async def many(
    engine: Engine, given: Iterator[Call], limits: Limits, window: int, tally: Tally, errors: list[str]
) -> None:
    """Send all calls, and count them in the tally. errors: gets the first messages of failures. Raises EngineDied."""

    async def counted() -> AsyncIterator[Call]:
        for each in given:
            tally.sent(each.key)
            yield each

    async with aclosing(Client(engine, limits).answers(counted(), window)) as answers:
        async for answer in answers:
            error = failure(answer)
            tally.answered(answer.key, not error, *tokens(answer))
            if error and len(errors) < 3:
                errors.append(error)


def parsed(answer: Answer) -> dict[str, Any] | None:
    found = error_bodies.parsed(answer.body)
    return found if isinstance(found, dict) else None


def failure(answer: Answer) -> str:
    """Why the call failed, in a sentence; empty when it succeeded."""
    if answer.status is None:
        return answer.error_message or "The engine did not answer."
    if answer.status < 300:
        found = parsed(answer)
        return "" if found is not None and error_bodies.as_text(found) else "The engine's answer was not a JSON object."
    said = f"The engine answered {answer.status}: {error_bodies.message_of(answer.status, answer.body)}"
    if answer.remedy:
        said = f"{said.removesuffix('.')}. {answer.remedy[0].upper()}{answer.remedy[1:]}."
    return f"{said} The engine's log says: {answer.reason}" if answer.reason else said


def tokens(answer: Answer) -> tuple[int, int]:
    """Input and output tokens, as the engine counts them."""
    usage = (parsed(answer) or {}).get("usage")
    found = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else [0, 0]
    counts = [number if isinstance(number, int) and 0 <= number < 2**31 else 0 for number in found]
    return counts[0], counts[1]
