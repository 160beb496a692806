"""Migrations of tables that have rows."""

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from batches.models import File
from vbs.accounts.models import Project


@pytest.fixture
def migrated(transactional_db):
    """The models as they are after a migration of batches; the newest again at the end."""

    def to(name):
        executor = MigrationExecutor(connection)
        targets = [("batches", name)] if name else executor.loader.graph.leaf_nodes()
        return executor.migrate(targets).apps

    yield to
    to(None)


def test_the_status_and_format_of_files(migrated):
    old = migrated("0012_in_flight").get_model("batches", "File")
    project, now = Project.objects.create(name="project"), timezone.now()
    given = {
        "seen": ("batch", "in.jsonl", {"expires_at": now}),
        "output": ("batch_output", "out.csv", {}),
        "gone": ("fine-tune", "a.txt", {"deleted_at": now, "purged_at": now}),
        "prepared": ("user_data", "Table.CSV", {"deleted_at": now, "expires_at": now}),
        "lines": ("user_data", "a.ndjson", {}),
        "photo": ("vision", "csv.png", {}),
    }
    for key, (purpose, filename, times) in given.items():
        old.objects.create(id=key, project_id=project.pk, purpose=purpose, filename=filename, bytes=1, **times)
    migrated(None)
    found = {file.pk: (file.status, file.format, file.created_by) for file in File.objects.all()}
    assert found == {
        "seen": ("available", "jsonl", None),
        "output": ("available", "jsonl", None),
        "gone": ("deleted", "jsonl", None),
        "prepared": ("deleted", "csv", None),
        "lines": ("available", "jsonl", None),
        "photo": ("available", "other", None),
    }
    for key, (_purpose, _filename, times) in given.items():
        file = File.objects.get(pk=key)
        for name in ("expires_at", "deleted_at", "purged_at"):
            assert getattr(file, name) == times.get(name)
