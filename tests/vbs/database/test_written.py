"""A query that is written once finds what Django's own finds, and is safe to use at any time."""

import uuid
from datetime import timedelta
from unittest import mock

import pytest
from django.db.models.sql.compiler import SQLCompiler
from django.utils import timezone

from batches.models import Batch
from vbs.accounts.models import ApiKey, Project
from vbs.database.written import Given, Written

pytestmark = pytest.mark.django_db


@pytest.fixture
def batch():
    times = {"expires_at": timezone.now() + timedelta(days=1), "validated_at": timezone.now()}
    made = {"endpoint": "/v1/completions", "metadata": {"ä": ["%s", {}]}, "model_names": ["m"], "total": 3}
    return Batch.objects.create(project=Project.objects.create(name="one"), **made, **times)


def test_it_finds_the_row_as_django_does(batch, django_assert_num_queries):
    by_id = Written(lambda: Batch.objects.select_related("project", "output_file").filter(pk=Given("pk")))
    with django_assert_num_queries(1):
        found = by_id.first(pk=batch.pk)
        assert found.project.name == "one" and found.output_file is None
    django = Batch.objects.get(pk=batch.pk)
    assert found == django and not found._state.adding and found._state.db == "default"
    for field in Batch._meta.concrete_fields:
        assert getattr(found, field.attname) == getattr(django, field.attname), field.name
    assert by_id.first(pk="batch_%s' OR true --") is None


def test_annotations_come_with_it(batch):
    query = Written(lambda: Batch.objects.with_holding().filter(pk=Given("pk")))
    assert query.first(pk=batch.pk).is_held is False
    Batch.objects.claim(worker := uuid.uuid4())
    assert query.first(pk=batch.pk).is_held is True
    Batch.objects.of(worker).update(leased_until=timezone.now() - timedelta(seconds=1))
    assert query.first(pk=batch.pk).is_held is False


def test_its_sql_is_written_once(batch):
    query = Written(lambda: Batch.objects.filter(pk=Given("pk"), project_id=Given("project")))
    with mock.patch.object(SQLCompiler, "as_sql", autospec=True, side_effect=SQLCompiler.as_sql) as writing:
        for _ in range(3):
            assert query.first(project=batch.project_id, pk=batch.pk) == batch
        assert query.first(project=batch.project_id + 1, pk=batch.pk) is None
    assert writing.call_count == 1


def test_a_value_that_is_missing_is_an_error(batch):
    with pytest.raises(KeyError):
        Written(lambda: Batch.objects.filter(pk=Given("pk"))).first(key=batch.pk)


def test_a_time_that_would_never_change_is_refused():
    query = Written(lambda: ApiKey.objects.filter(expires_at__gt=timezone.now(), digest=Given("digest")))
    with pytest.raises(TypeError, match="never change"):
        query.first(digest="x")
