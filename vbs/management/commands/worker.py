"""Run a cluster of django-q2, tied to this process: nothing of it outlives us, and all of it hears of a stop."""

import ctypes
import multiprocessing
import os
import signal
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """In each process that the cluster forks: when its parent is killed, so is it. (The engine is not forked.)"""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Command(BaseCommand):
    help = "Run the workers of a cluster: io (validation, outputs, clean-up) or gpu (one worker, and its engine)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("cluster", choices=["io", "gpu"])

    def handle(self, *, cluster: str, **options: Any) -> None:
        if os.environ.get("Q_CLUSTER_NAME") != cluster:  # django-q2 reads it when it is imported
            os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"Q_CLUSTER_NAME": cluster})  # noqa: S606
        from django_q.cluster import Cluster

        from vbs import outages

        outages.stopping = multiprocessing.Event()
        os.register_at_fork(after_in_child=_die_with_parent)

        class StoppingCluster(Cluster):
            def stop(self) -> bool:
                outages.stopping.set()
                return bool(super().stop())

        StoppingCluster().start()
