"""Batches to jump to."""

from collections.abc import Iterable
from dataclasses import replace

from django.urls import reverse

from batches.pages.history.filters import Filter, page
from vbs.pages.jump import Target
from vbs.pages.plain import brief
from vbs.pages.viewer import Viewer


def batches(viewer: Viewer, text: str) -> Iterable[Target]:
    """Those whose words or id begin so, the newest first, whichever project is chosen."""
    rows, _, _ = page(replace(viewer, project=None), Filter(words=text))
    for batch in rows:
        yield Target("Batch", batch.pk, reverse("batch", args=[batch.pk]), brief(", ".join(batch.model_names), 60))
