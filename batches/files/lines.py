"""Reads single lines of a file by their places."""

from collections.abc import Iterable, Iterator

from batches.files import blobs

MOST_READ = 2**20  # bytes that are read at once for lines that are near each other

Place = tuple[int, int, int]  # line, offset and length


def read(blob: str, places: Iterable[Place], most: int) -> Iterator[tuple[int, bytes]]:
    """The number of each line and its beginning, at most so many bytes. Lines that are near each other are read in one
    piece: a distant storage takes long for each. places: in the order of the file. Raises the storage's errors."""
    for near in _near(places, most):
        start, (_, last, length) = near[0][1], near[-1]
        whole = blobs.part(blob, start, last + min(length, most) - start)
        for line, offset, length in near:
            yield line, whole[offset - start : offset - start + min(length, most)]


def _near(places: Iterable[Place], most: int) -> Iterator[list[Place]]:
    """Neighbours that take no more than MOST_READ together; of a longer line it alone."""
    group: list[Place] = []
    for place in places:
        _, offset, length = place
        if group and offset + min(length, most) - group[0][1] > MOST_READ:
            yield group
            group = []
        group.append(place)
    if group:
        yield group
