"""Entry points of the task queue."""

import uuid

from vbs.logs import bind
from vbs.outages import insist


def work() -> None:
    from models_registry import gpu

    gpu.work()


def fetch(model_id: str) -> None:
    from models_registry import fetch

    turn = uuid.uuid4()
    with bind(model_id=model_id):
        insist(lambda: fetch.run(int(model_id), turn))
