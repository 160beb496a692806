from tests.models_registry.engine.started import home, start  # noqa: F401
