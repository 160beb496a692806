"""Addresses of before lead to where it is now."""

import re

import pytest
from django.test import Client

from vbs.settings import BASE_DIR

OLD = {
    "/queue-monitor.html": "/queue/",
    "/static/queue-monitor.html": "/queue/",
    "/static/model-management.html": "/models/",
    "/static/conquest-viewer.html": "/batches/",
    "/static/fine-tuning.html": "/models/",
    "/static/workbench.html": "/batches/",
    "/static/benchmark-runner.html": "/models/",
    "/config": "/system/settings",
}


@pytest.mark.parametrize("old, new", OLD.items())
def test_it_has_moved(old, new):
    answer = Client().get(f"{old}?next=//evil.example&id=1")
    assert (answer.status_code, answer["Location"]) == (302, new), "and what was asked stays behind"
    assert Client().head(old).status_code == 302
    assert Client().post(old).status_code == 405


@pytest.mark.parametrize("path", ["/static/other.html", "/static/queue-monitor.html/x", "/config/x", "/static/"])
def test_what_never_was_is_not_found(path):
    assert Client().get(path).status_code == 404


def test_the_guide_has_them_all():
    """docs/from-vllm-batch-server.md tells where each of them leads."""
    pages = (BASE_DIR / "docs" / "from-vllm-batch-server.md").read_text().partition("\n## Pages\n")[2]
    rows = [line.split("|")[1:3] for line in pages.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    told = {old: new for olds, new in rows for old in re.findall("`([^`]+)`", olds)}
    assert {*told} == {*OLD} and all(told[old].strip().startswith(f"`{new}`") for old, new in OLD.items())
