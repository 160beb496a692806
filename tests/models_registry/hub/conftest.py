from tests.models_registry.hub.fetched import converter, served, stopping  # noqa: F401
