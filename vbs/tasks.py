"""The tasks of the task queue. An app registers its own: the function that does the work, and the cluster that runs it.

A task is a wake-up: the tables hold the state, and the upkeep finds what was left undone. So every task may run twice.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class QueueTask:
    """function: its dotted path. cluster: io or gpu."""

    function: str
    cluster: str


TASKS: dict[str, QueueTask] = {}


def register(name: str, function: str, cluster: str = "io") -> None:
    TASKS[name] = QueueTask(function, cluster)
