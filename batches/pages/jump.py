"""Batches to jump to."""

from collections.abc import Iterable
from dataclasses import replace

from django.urls import reverse

from batches.pages.history.filters import Filter, page
from vbs.pages.jump import Target
from vbs.pages.plain import brief
from vbs.pages.templatetags.words import short
from vbs.pages.viewer import Viewer


def batches(viewer: Viewer, text: str) -> Iterable[Target]:
    """Those whose name, metadata or id has words that begin so, the newest first, whichever project is chosen."""
    rows, _, _ = page(replace(viewer, project=None), Filter(words=text))
    for batch in rows:
        note = ", ".join([short(batch.pk), *batch.model_names])
        yield Target("Batch", brief(batch.title), reverse("batch", args=[batch.pk]), brief(note, 60))
