"""Input files of any size, the same for the same seed. Texts are made of plain words and mean nothing.

A seed goes into the first words of every prompt, so an engine that is still warm from a file with another seed finds
nothing of this one in its prefix cache.
"""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

CHAT = "/v1/chat/completions"
SAID = """\
amber basin cedar delta ember fable grove harbor island jasper kettle lantern meadow nectar orchard pebble quarry river
saddle timber umbra valley willow yonder zephyr copper market signal window garden letter"""
WORDS = SAID.split()

Message = dict[str, str]


def plain(path: Path, count: int, model: str = "scripted") -> Path:
    """Requests of about 800 bytes each."""
    texts = [_words(random.Random(seed), 620) for seed in range(64)]
    return _write(path, model, ([_user(f"{number} {texts[number % 64]}")] for number in range(count)))


def mixed(path: Path, count: int, model: str, seed: int, turn: int = 0) -> Path:
    """Short prompts without a common beginning; 16 to 111 output tokens each.

    turn: the same work once more, of which an engine finds nothing in its prefix cache.
    """
    chance = random.Random(f"mixed {seed}")
    asked = [
        [_user(f"{chance.randrange(10**9) + turn} {_words(chance, chance.randint(40, 400))}")] for _ in range(count)
    ]
    return _write(path, model, asked, (chance.randint(16, 111) for _ in range(count)))


def short(path: Path, count: int, model: str, seed: int) -> Path:
    """A few words in, eight tokens out: how many requests can be taken at all."""
    chance = random.Random(f"short {seed}")
    asked = [[_user(f"{chance.randrange(10**9)} {_words(chance, 150)}")] for _ in range(count)]
    return _write(path, model, asked, (8 for _ in range(count)))


def slow(path: Path, count: int, model: str, seed: int) -> Path:
    """For the scripted engine: up to 3.5 s more for each answer."""
    chance = random.Random(f"slow {seed}")
    asked = [[_user(f"[[delay-ms {chance.randint(0, 3500)}]] {_words(chance, 200)}")] for _ in range(count)]
    return _write(path, model, asked)


def split(path: Path, parts: int) -> list[Path]:
    """The same lines in so many files, each with as many of them."""
    lines = path.read_bytes().splitlines(keepends=True)
    size = -(-len(lines) // parts)
    made = [path.with_name(f"{path.stem}-{part}.jsonl") for part in range(parts)]
    for part, one in enumerate(made):
        one.write_bytes(b"".join(lines[part * size : (part + 1) * size]))
    return made


def prefix(path: Path, count: int, model: str, seed: int) -> Path:
    """Six groups, shuffled, each with a system prompt of 1,500 characters; 4 to 200 output tokens each."""
    chance = random.Random(f"prefix {seed}")
    systems = [f"{chance.randrange(10**9)} {_words(chance, 1500)}" for _ in range(6)]
    asked = [
        [{"role": "system", "content": systems[number % 6]}, _user(_words(chance, chance.randint(20, 200)))]
        for number in range(count)
    ]
    chance.shuffle(asked)
    return _write(path, model, asked, (chance.randint(4, 200) for _ in range(count)))


def _write(path: Path, model: str, asked: Iterable[list[Message]], lengths: Iterable[int] | None = None) -> Path:
    """One request for each conversation; of exactly as many output tokens as given, so the work is always the same."""
    tokens = iter(lengths) if lengths is not None else None
    with path.open("wb") as file:
        for number, messages in enumerate(asked):
            body: dict[str, Any] = {"model": model, "messages": messages}
            if tokens is not None:
                length = next(tokens)
                body |= {"temperature": 0, "ignore_eos": True, "min_tokens": length, "max_tokens": length}
            line = {"custom_id": f"request-{number}", "method": "POST", "url": CHAT, "body": body}
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    return path


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _words(chance: random.Random, characters: int) -> str:
    def endless() -> Iterator[str]:
        while True:
            yield chance.choice(WORDS)

    text = ""
    for word in endless():
        text += word + " "
        if len(text) >= characters:
            break
    return text[:characters]
