"""Runs a cluster of django-q2, tied to this process: none of its processes outlives this one, and all of them get a
stop.

When one of its processes is killed, all of it ends and the supervisor starts it again. django-q2 alone would replace
only the killed process. But that may have held a lock of the queue that all share (an idle worker holds it while it
waits), and then no task would be handed out ever again.
"""

import logging
import multiprocessing
import os
import signal
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from vbs.run import processes

log = logging.getLogger(__name__)

RESTART_SECONDS = 30  # how long a worker that restarts may take to end; then it is ended by force
RECYCLED = -2  # the timer of a worker that ended by itself and holds nothing


def _die_with_parent() -> None:
    """In each process that the cluster forks: when its parent is killed, it is killed too. (The engine is not
    forked.)"""
    processes.end_with_parent(signal.SIGKILL)


class Command(BaseCommand):
    help = "Run the workers of a cluster: io (validation, output files, upkeep) or gpu (one worker and its engine)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("cluster", choices=["io", "gpu"])

    def handle(self, *, cluster: str, **options: Any) -> None:
        if os.environ.get("Q_CLUSTER_NAME") != cluster:  # django-q2 reads it when it is imported
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"Q_CLUSTER_NAME": cluster})  # noqa: S606
        from django_q import cluster as django_q

        from vbs.database import outages
        from vbs.run import descriptors

        descriptors.raise_limit()  # which the engine inherits
        outages.stopping = multiprocessing.Event()
        outages.restarting = multiprocessing.Event()
        outages.cluster_pid = os.getpid()
        os.register_at_fork(after_in_child=_die_with_parent)

        class Sentinel(django_q.Sentinel):
            def reincarnate(self, process: Any) -> None:
                if process in self.pool and process.timer.value == RECYCLED:
                    return super().reincarnate(process)
                log.critical("Process %s of the %s cluster has died: ending the cluster", process.pid, cluster)
                os._exit(1)  # the rest of it is killed with us, and the cluster's first process ends

        class Cluster(django_q.Cluster):
            def stop(self) -> bool:
                outages.stopping.set()
                if outages.restarting.is_set():
                    signal.alarm(RESTART_SECONDS)  # somebody may restart a worker because it hangs
                return bool(super().stop())

        django_q.Sentinel = Sentinel  # the name by which Cluster finds it
        Cluster().start()
