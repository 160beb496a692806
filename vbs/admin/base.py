"""Base classes for the admin pages of our apps."""

from functools import cached_property

from django.apps import apps
from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from vbs.admin.site import Audited

MOST_COUNTED = 10_000

# A row of the task queue names a function that a worker calls, so the admin shows none.
admin.site.unregister([one for one in apps.get_app_config("django_q").get_models() if admin.site.is_registered(one)])


class BoundedPaginator(Paginator):
    """Counts no more than MOST_COUNTED rows, and so never skips more. Older rows are found by a search."""

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        return rows.order_by()[:MOST_COUNTED].count() if isinstance(rows, QuerySet) else len(rows)


class LargeAdmin(Audited):
    """For a table that may have millions of rows: no page reads all of them."""

    paginator = BoundedPaginator
    show_full_result_count = False  # counting millions of rows to show a page of them would take seconds
    show_facets = admin.ShowFacets.NEVER  # they count each choice of each filter


class ReadOnlyAdmin(LargeAdmin):
    """For rows that the system writes and nobody edits by hand."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False
