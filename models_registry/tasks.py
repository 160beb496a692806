"""Entry points of the task queue."""


def work() -> None:
    from models_registry import gpu

    gpu.work()
