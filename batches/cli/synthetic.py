"""Prompts without data: any number of them, of very different lengths, and the same ones for the same seed."""

import math
import random
from collections.abc import Iterator

SHORTEST, LONGEST = 5, 400  # words
WORDS = [
    "water",
    "light",
    "stone",
    "river",
    "mountain",
    "garden",
    "window",
    "letter",
    "market",
    "winter",
    "summer",
    "engine",
    "paper",
    "silver",
    "copper",
    "forest",
    "island",
    "harbour",
    "bridge",
    "village",
    "teacher",
    "doctor",
    "painter",
    "captain",
    "farmer",
    "question",
    "answer",
    "reason",
    "number",
    "colour",
    "morning",
    "evening",
    "journey",
    "history",
    "language",
    "music",
    "theatre",
    "science",
    "weather",
    "kitchen",
    "bread",
    "honey",
    "orange",
    "lemon",
    "quiet",
    "bright",
    "heavy",
    "narrow",
    "gentle",
    "ancient",
    "simple",
    "curious",
    "distant",
    "careful",
    "walks",
    "carries",
    "builds",
    "remembers",
    "describes",
    "measures",
    "opens",
    "follows",
    "compares",
    "discovers",
    "explains",
    "gathers",
    "between",
    "beyond",
    "under",
    "through",
    "without",
]
TASKS = ("Summarise this", "Explain this to a child", "Continue this story", "Name the three main ideas of this")


def prompts(count: int, seed: int, shared_prefix: int) -> Iterator[str]:
    """The logarithms of the lengths are spread evenly: many short prompts, a few long ones. The prefix is in
    characters."""
    source = random.Random(seed)
    prefix = ""
    while len(prefix) < shared_prefix:
        prefix += _sentence(source, 12) + " "
    prefix = prefix[:shared_prefix]
    for number in range(1, count + 1):
        length = _length(source)
        yield f"{prefix}{source.choice(TASKS)} (number {number}): {_sentence(source, length)}"


def texts(seed: int) -> Iterator[str]:
    """Texts without end, of lengths as those of prompts."""
    source = random.Random(f"{seed} texts")
    while True:
        yield _sentence(source, _length(source))


def _length(source: random.Random) -> int:
    return round(math.exp(source.uniform(math.log(SHORTEST), math.log(LONGEST))))


def _sentence(source: random.Random, words: int) -> str:
    return " ".join(source.choices(WORDS, k=words)).capitalize() + "."
