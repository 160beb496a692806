import pytest


@pytest.fixture(autouse=True)
def _plain_static_files(settings):
    """The manifest of static files is made by `manage.py prepare`, which the tests do not run."""
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }
