"""The tasks of the queue. An app registers its own: the function that does the work, and the cluster that it runs on.

A task is a wake-up: the truth is in the tables, and the upkeep finds what was left undone. So every task may run twice.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """function: by its dotted path. cluster: io or gpu."""

    function: str
    cluster: str


TASKS: dict[str, Task] = {}


def register(name: str, function: str, cluster: str = "io") -> None:
    TASKS[name] = Task(function, cluster)
