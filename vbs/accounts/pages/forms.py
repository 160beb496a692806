"""The forms on the pages of keys, people and projects."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django import forms
from django.contrib.auth.models import User
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.db.models import QuerySet
from django.utils import timezone

from vbs.accounts.models import ApiKey, Project
from vbs.accounts.roles import ROLES
from vbs.pages.forms import GuardedForm
from vbs.pages.once import OnceField, first

DAYS = ("30", "90", "365")
MOST_DAYS = 36_500
GENERATED = "Leave it empty to have one generated and shown once."


def name_field(label: str, help_text: str = "", most: int = 100) -> forms.CharField:
    """A field for one line of printable characters."""
    widget = forms.TextInput(attrs={"autocomplete": "off", "dir": "auto"})
    return forms.CharField(label=label, max_length=most, help_text=help_text, widget=widget, validators=[_printable])


def _printable(text: str) -> None:
    if not text.isprintable():
        raise forms.ValidationError("This has characters that cannot be printed: type it again.")


class ExpiryForm(GuardedForm):
    """When a key stops working."""

    CHOICES = (("never", "Never"), *((days, f"In {days} days") for days in DAYS), ("date", "After the day below"))

    expires = forms.ChoiceField(label="Expires", choices=CHOICES)
    last_day = forms.DateField(
        label="Last day",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="The key works until the end of that day, in UTC.",
    )

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("expires") != "date" or self.has_error("last_day"):
            return data
        day: date | None = data.get("last_day")
        today = timezone.now().date()
        if day is None:
            self.add_error("last_day", "Choose the day, or another time above.")
        elif day <= today:
            self.add_error("last_day", f"{day} is not in the future: today is {today}, in UTC.")
        elif day > today + timedelta(days=MOST_DAYS):
            self.add_error("last_day", "That is more than 100 years away: choose never.")
        return data

    def expires_at(self) -> datetime | None:
        chosen = self.cleaned_data["expires"]
        if chosen == "never":
            return None
        if chosen == "date":
            return datetime.combine(self.cleaned_data["last_day"] + timedelta(days=1), time(), UTC)
        return timezone.now() + timedelta(days=int(chosen))


class NewKeyForm(ExpiryForm):
    """may_operate: the form offers the right to change the registry of models."""

    name = name_field("Name", "What it is for, such as the program that uses it")
    project = forms.ModelChoiceField(queryset=Project.objects.none(), empty_label=None)
    operator = forms.BooleanField(
        label="May also change the registry of models",
        help_text="Add, fetch, load and remove models by the API",
        required=False,
    )
    once = OnceField()
    field_order = ("name", "project", "expires", "last_day", "operator")

    def __init__(self, *given: Any, projects: QuerySet[Project], may_operate: bool, **options: Any) -> None:
        super().__init__(*given, **options)
        field: Any = self.fields["project"]
        field.queryset = projects
        if not may_operate:
            self.withhold("operator", "only whoever may change models can make such a key: an operator or an admin")

    def issue(self) -> tuple[ApiKey, str] | None:
        """Makes the key; None when this form has made its key before."""
        data = self.cleaned_data
        if not first(data["once"], data["project"]):
            return None
        return ApiKey.objects.issue(data["project"], data["name"], self.expires_at(), data.get("operator", False))


class KeyForm(ExpiryForm):
    CHOICES = (("same", "As it is now"), *ExpiryForm.CHOICES)
    name = name_field("Name")
    expires = forms.ChoiceField(label="Expires", choices=CHOICES)
    field_order = ("name", "expires", "last_day")

    def change(self, key: ApiKey) -> str:
        """Returns in words what changed, or an empty text."""
        expires_at = key.expires_at if self.cleaned_data["expires"] == "same" else self.expires_at()
        return key.change(self.cleaned_data["name"], expires_at)


class PasswordForm(forms.Form):
    """A new password. vbs/accounts/people.py checks it, for Django's validators need to know the account."""

    password = forms.CharField(
        required=False,
        strip=False,
        max_length=200,
        help_text=GENERATED,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )
    once = OnceField()


class _Belongs(GuardedForm):
    role = forms.ChoiceField(choices=())
    projects = forms.ModelMultipleChoiceField(
        queryset=Project.objects.none(),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Whose batches, files and keys are seen. An admin sees those of all projects.",
    )

    def __init__(self, *given: Any, roles: Iterable[str], projects: QuerySet[Project], **options: Any) -> None:
        super().__init__(*given, **options)
        allowed = set(roles)
        shown: Any = self.fields["role"]
        shown.choices = [(role, role) for role in ROLES if role in allowed]
        choosable: Any = self.fields["projects"]
        choosable.queryset = projects


class NewPersonForm(_Belongs, PasswordForm):
    name = forms.CharField(
        label="Name to sign in with",
        max_length=150,
        validators=[UnicodeUsernameValidator()],
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}),
    )
    field_order = ("name", "password", "role", "projects")


class PersonForm(_Belongs):
    """fixed: why the role cannot be changed here, and who can change it; empty when it can."""

    def __init__(self, *given: Any, fixed: str, **options: Any) -> None:
        super().__init__(*given, **options)
        if fixed:
            self.withhold("role", fixed)


class ProjectForm(GuardedForm):
    name = name_field("Name")


class NewProjectForm(ProjectForm):
    once = OnceField()


class MembersForm(ProjectForm):
    members = forms.ModelMultipleChoiceField(
        queryset=User.objects.none(), required=False, widget=forms.CheckboxSelectMultiple
    )

    def __init__(self, *given: Any, people: QuerySet[User] | None, **options: Any) -> None:
        """people: whom the form offers; None when this person may not see them."""
        super().__init__(*given, **options)
        if people is None:
            self.withhold("members", "only whoever may see people can choose them, such as an admin")
        else:
            field: Any = self.fields["members"]
            field.queryset = people
