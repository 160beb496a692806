"""What interactive requests took, on a model's page: of the viewer's own projects, of the last day."""

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from models_registry.models import InteractiveUsage, Model
from models_registry.serving import usage
from tests.people import person, text
from vbs.accounts.models import Project

pytestmark = pytest.mark.django_db


@pytest.fixture
def model():
    return Model.objects.create(name="scripted", kind="scripted")


def used(project, hours=1, **fields):
    at = timezone.now() - timedelta(hours=hours)
    given = {"requests": 1200, "input_tokens": 30, "output_tokens": 40} | fields
    InteractiveUsage.objects.create(project=project, model="scripted", hour=at, **given)


def test_the_line_on_the_page(model):
    mine, other = (Project.objects.create(name=name) for name in ("mine", "other"))
    used(mine)
    used(mine, hours=2, requests=1, failed=1)
    used(mine, hours=25)
    used(other, requests=7)
    shown = text(person("viewer", mine).get(reverse("model", args=[model.pk])))
    assert "1,201 direct requests in the last 24 hours, 1 failed: 60 input tokens, 80 output tokens." in shown
    nobody = Project.objects.create(name="nobody")
    assert "direct request" not in text(person("viewer", nobody).get(reverse("model", args=[model.pk])))


def test_old_rows_are_deleted(model, settings):
    project = Project.objects.create(name="mine")
    settings.VBS_RETENTION_DAYS = 2
    used(project, hours=47)
    used(project, hours=49)
    usage.purge()
    assert InteractiveUsage.objects.count() == 1
