"""Processes that engines have left behind: each carries the folder of its engine in its environment."""

from collections.abc import Collection
from pathlib import Path

from vbs.run import processes

MARK = "VBS_ENGINE_HOME"


def end(folder: Path, spare: Collection[Path] = ()) -> int:
    """End every process of an engine of this folder or of one below it, whoever started it. Says how many there were.

    spare: folders of the engines that stay.
    """
    found = []
    for process, mark in processes.marked(MARK):
        if Path(mark).is_relative_to(folder) and Path(mark) not in spare:
            found += processes.family(process.pid)
    processes.end(found, grace=0)
    return len(found)
