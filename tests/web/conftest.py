import pytest

from tests.web.tiny import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("spool"))
    yield server
    server.stop()
