"""The functions of this app that the task queue calls."""

import uuid

from vbs.database.outages import insist
from vbs.logs import bind


def work() -> None:
    from models_registry.gpu import worker_process

    worker_process.work()


def fetch(model_id: str) -> None:
    from models_registry.hub import download_run

    turn = uuid.uuid4()
    with bind(model_id=model_id):
        insist(lambda: download_run.run(int(model_id), turn))
