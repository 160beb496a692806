"""The beginning of an answer, which the list of requests shows, even when only its first characters were read."""

import re

import orjson

from batches.exchange import answered, dimensions
from vbs.pages.plain import brief

_SCORE = re.compile(r'"score":\s*(-?\d[\d.eE+-]*)[,}]')


def beginning(response: str | None, whole: bool = True) -> str:
    """whole: whether this is the whole answer, or only its first characters."""
    if not response:
        return ""
    if not whole:
        return brief(_cut(response))
    try:
        body = orjson.loads(response)
    except orjson.JSONDecodeError:
        return brief(response)
    if isinstance(body, dict) and isinstance(vectors := body.get("data"), list) and vectors:
        first = vectors[0].get("embedding") if isinstance(vectors[0], dict) else None
        if isinstance(first, list | str):
            wide = len(first) if isinstance(first, list) else dimensions(first)
            return f"{wide:,} dimensions" + (f" × {len(vectors):,}" if len(vectors) > 1 else "")
        if isinstance(first := vectors[0], dict) and "score" in first:
            return brief(" · ".join(piece.text for piece in answered(body).pieces))
    pieces = answered(body).pieces
    said = next((one for one in pieces if one.text and "reasoning" not in one.who), None) or next(iter(pieces), None)
    if said is None:
        return brief(response)
    return brief(f"{said.who}: {said.text}" if said.who.startswith("tool call") else said.text)


def _cut(response: str) -> str:
    """The text at the beginning of an answer that was cut off."""
    if '"embedding":' in response:
        return "an embedding"
    if '"relevance_score":' not in response and (scores := _SCORE.findall(response)):
        return " · ".join(f"{float(score):.6g}" for score in scores)
    for mark in ('"content":"', '"text":"'):
        _, found, rest = response.partition(mark)
        if found:
            end = 0
            while end < len(rest) and rest[end] != '"':
                end += 2 if rest[end] == "\\" else 1
            for cut in range(12):  # an escape at the end may be half there
                try:
                    return str(orjson.loads(f'"{rest[: end - cut]}"'))
                except orjson.JSONDecodeError:
                    continue
    return response
