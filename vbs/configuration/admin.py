"""Settings and the audit log in the admin, read only. The page of settings checks a value and records who set it."""

from django.contrib import admin

from vbs.admin.base import ReadOnlyAdmin
from vbs.configuration.models import AuditEntry, Override


@admin.register(Override)
class OverrideAdmin(ReadOnlyAdmin):
    list_display = ["name", "value", "changed_by", "changed_at"]
    search_fields = ["name", "changed_by"]


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    list_display = ["at", "username", "action", "target", "project"]
    list_filter = ["project"]
    list_select_related = ["project"]
    search_fields = ["username", "action", "target"]
    fields = ["at", "username", "user", "action", "target", "detail", "project"]
    sortable_by = ()  # by time, for which there is an index
