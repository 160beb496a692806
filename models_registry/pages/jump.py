"""Models to jump to."""

from collections.abc import Iterable

from django.db.models import Q
from django.urls import reverse

from models_registry.models import Model
from vbs.pages.jump import MOST, Target
from vbs.pages.viewer import Viewer


def models(viewer: Viewer, text: str) -> Iterable[Target]:
    """Those with the text in their name or in that of an alias."""
    found = Model.objects.filter(Q(name__icontains=text) | Q(aliases__name__icontains=text)).distinct()
    for model in found.order_by("name")[:MOST]:
        yield Target("Model", model.name, reverse("model", args=[model.pk]), model.get_state_display())
