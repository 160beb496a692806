"""Documents to jump to."""

from collections.abc import Iterable

from django.urls import reverse

from vbs.help import documents as library
from vbs.pages.jump import Target
from vbs.pages.viewer import Viewer


def documents(viewer: Viewer, text: str) -> Iterable[Target]:
    """Those with all of the words in their title, then the sections with these in their heading; none for no words."""
    words = text.lower().split()
    if not words:
        return
    for entry in library.entries():
        if all(word in entry.title.lower() for word in words):
            yield Target("Document", entry.title, reverse("help-document", args=[entry.name]))
    for document in library.documents():
        for section in document.rendered.sections:
            heading = section.heading
            if heading.level > 1 and all(word in heading.text.lower() for word in words):
                address = f"{reverse('help-document', args=[document.name])}#{heading.anchor}"
                yield Target("Document", heading.text, address, document.title)
