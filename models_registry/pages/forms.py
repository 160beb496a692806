"""The forms on the pages of models. A form checks types and sizes; the catalog and the operations check the rest."""

import json
from collections.abc import Callable, Collection
from typing import Any

from django import forms
from django.conf import settings

from models_registry import remote_keys
from models_registry.catalog import add as importer
from models_registry.catalog import allowed, paste, remove, rules
from models_registry.catalog.folders import ModelError
from models_registry.catalog.paste import Proposal
from models_registry.engine.spec import EngineKind
from models_registry.gpu import operations
from models_registry.hub import downloads
from models_registry.models import READING, HubToken, Model, ModelState, Operation, OperationKind, Task
from vbs.pages.access import Request
from vbs.pages.forms import GuardedForm
from vbs.pages.once import OnceField

WRONG = 422  # what was typed cannot be taken
MOST_OPTIONS = 20_000  # characters


class OptionsField(forms.CharField):
    """A JSON object that a database can hold."""

    widget = forms.Textarea(attrs={"rows": 4, "spellcheck": "false", "class": "code"})

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=MOST_OPTIONS, required=False, **options)

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return json.dumps(value, indent=2, ensure_ascii=False) if value else ""
        return value

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        if not text:
            return {}
        try:
            found = json.loads(text)
            plain = json.dumps(found, allow_nan=False, ensure_ascii=False)
            plain.encode()
        except (ValueError, RecursionError) as error:
            raise forms.ValidationError(f"This is no JSON object that can be kept: {error}") from None
        if not isinstance(found, dict) or "\\u0000" in plain:
            raise forms.ValidationError('Give a JSON object such as {"max-model-len": 2048}, without NUL.')
        return found


class AddressesField(forms.CharField):
    """URLs, one a line, as a list."""

    widget = forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "class": "code"})

    def __init__(self) -> None:
        super().__init__(
            label="More addresses",
            max_length=rules.MOST_ADDRESSES * rules.MOST_URL,
            required=False,
            help_text="Servers with the same model, one per line; requests are spread over all of them",
        )

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return value if isinstance(value, list) else str(value or "").split()

    def has_changed(self, initial: Any, data: Any) -> bool:
        return (initial or []) != self.to_python(data)


def _text(label: str, most: int, help_text: str = "", required: bool = False, rows: int = 0) -> forms.CharField:
    widget = forms.Textarea(attrs={"rows": rows}) if rows else forms.TextInput(attrs={"autocomplete": "off"})
    return forms.CharField(label=label, max_length=most, help_text=help_text, required=required, widget=widget)


def _switch(label: str, help_text: str, risky: bool = False) -> forms.BooleanField:
    widget = forms.CheckboxInput(attrs={"class": "risky"} if risky else {})
    return forms.BooleanField(label=label, help_text=help_text, required=False, widget=widget)


def _price(label: str) -> forms.DecimalField:
    help_text = f"In {settings.VBS_CURRENCY}, for what batches cost; empty: it has no price"
    return forms.DecimalField(
        label=label, max_digits=12, decimal_places=4, min_value=0, required=False, help_text=help_text
    )


CODE = _switch(
    "Run the code that comes with the model (trust_remote_code)",
    "It runs on this server, with all that the server may do. Read it first.",
    risky=True,
)
PICKLE = _switch(
    "Load weights that are pickles (allow_pickle)",
    "A pickle can hold code. The engine takes only tensors out of it, and refuses the rest.",
    risky=True,
)
OPTIONS_HELP = "vLLM's, by their long names, as JSON. Empty: what suits the model."
TRUST_IS_FOR = "only an admin can have code of a model run, and only where VBS_TRUST_REMOTE_CODE=true allows it"
PICKLE_IS_FOR = "only whoever may change models can, such as an operator or an admin"
OF_THE_HUB = "it is only for a model of the hub"
OF_THE_BASE = "an adapter has what its base has"
OF_FILES = "it is only for a whole model whose files are here"


class KeyField(forms.CharField):
    """The key of a remote server. What is typed is not shown again, also where the form has an error."""

    widget = forms.PasswordInput(attrs={"autocomplete": "new-password"})

    def __init__(self, help_text: str) -> None:
        super().__init__(label="Key", max_length=remote_keys.MOST_KEY, required=False, help_text=help_text)


class PasteForm(forms.Form):
    text = forms.CharField(
        label="Add a model",
        max_length=paste.MOST_TEXT,
        widget=forms.Textarea(
            attrs={
                "rows": 2,
                "spellcheck": "false",
                "class": "code",
                "placeholder": "A hub link, an id, a folder, a server's URL or a “vllm serve …” command",
            }
        ),
    )

    def clean_text(self) -> Proposal:
        try:
            return paste.read(self.cleaned_data["text"])
        except paste.PasteError as error:
            raise forms.ValidationError(str(error)) from error


FIRST = ("name", "source", "key")


class AddForm(GuardedForm):
    """on_hub: the source is a repository of the hub, which will be downloaded. may_pickle, may_trust: whether the form
    offers that."""

    on_hub = forms.BooleanField(required=False, widget=forms.HiddenInput)
    name = _text("Name", 200, "The name that requests use", required=True)
    source = _text("Source", importer.MOST_SOURCE, required=True)
    key = KeyField("What the server wants as its API key, if it wants one. It is encrypted, and not shown again.")
    revision = _text("Revision", 200, "A branch, tag or commit; empty: the newest")
    file = _text("File", 500, "The one .gguf file of the repository; empty: all that is needed")
    token = forms.ModelChoiceField(
        queryset=HubToken.objects.all(),
        required=False,
        empty_label="the server's own",
        help_text="For a private or gated model",
    )
    remote_name = _text("Name on the server", 200, "What the server calls the model, if not by the name above")
    pool = AddressesField()
    task = forms.ChoiceField(choices=[("", "found out"), *Task.choices], required=False)
    base = forms.ModelChoiceField(
        queryset=Model.objects.filter(base=None, state=ModelState.READY)
        .exclude(task__in=READING)
        .exclude(kind=EngineKind.REMOTE),
        required=False,
        empty_label="none: a whole model",
        help_text="For a LoRA adapter, the model that it was made for",
    )
    engine_args = OptionsField(label="Engine options", help_text=OPTIONS_HELP)
    license = _text("Licence", 100)
    notes = _text("Notes", rules.MOST_NOTES, rows=2)
    trust_remote_code = CODE
    allow_pickle = PICKLE
    once = OnceField()

    def __init__(self, *given: Any, may_pickle: bool, may_trust: bool, **options: Any) -> None:
        super().__init__(*given, **options)
        if not may_trust:
            self.withhold("trust_remote_code", TRUST_IS_FOR)
        if not may_pickle:
            self.withhold("allow_pickle", PICKLE_IS_FOR)
        on_hub = self["on_hub"].value() in (True, "True", "true", "on", "1")
        is_url = str(self["source"].value() or "").startswith(("http://", "https://"))
        self["source"].label = "Id on the hub" if on_hub else "Server" if is_url else "Folder or file"
        if is_url and not on_hub:
            self.withhold("base", "it is not for a server's address")
        else:
            for name in ("key", "remote_name", "pool"):
                self.withhold(name, "it is only for a server's address")
        for name in () if on_hub else ("revision", "file", "token"):
            self.withhold(name, OF_THE_HUB)

    @property
    def first_fields(self) -> list[forms.BoundField]:
        """What everybody fills in."""
        return [self[name] for name in FIRST if name in self.fields]

    @property
    def more_fields(self) -> list[forms.BoundField]:
        return [field for field in self.visible_fields() if field.name not in FIRST]

    @property
    def shows_more(self) -> bool:
        """Whether one of the folded fields has a value or an error, and so has to be seen."""
        return any(field.value() or field.errors for field in self.more_fields)

    def draft(self) -> Model:
        """The hub's model of this form, not saved, to ask what its download will take."""
        data = self.cleaned_data
        return Model(
            name=data["name"],
            hub_id=data["source"],
            hub_revision=data["revision"],
            hub_file=data["file"],
            task=data["task"] or Task.CHAT,
            base=data["base"],
            hub_token=data["token"],
            engine_args=data["engine_args"],
            trust_remote_code=data.get("trust_remote_code", False),
            allow_pickle=data.get("allow_pickle", False),
        )

    def add(self) -> Model:
        """Register the model, and start its download when it is on the hub. Raises ModelError, and then nothing is
        registered."""
        data = dict(self.cleaned_data)
        on_hub, name, source = data.pop("on_hub"), data.pop("name"), data.pop("source")
        del data["once"]
        data["task"] = data["task"] or None
        if not on_hub:
            return importer.add(name, source, on_server=True, later=downloads.start, **data)
        model = downloads.add(name, source, **data)
        try:
            downloads.start(model)
        except ModelError:
            remove.remove(model)  # in the same transaction: the user gets both or neither
            raise
        return model


class EditForm(GuardedForm):
    task = forms.ChoiceField(choices=Task.choices)
    key = KeyField("No key is stored: the server gets none of this model.")
    remove_key = _switch("Remove the key", "The server is sent none of this model from then on.")
    engine_args = OptionsField(label="Engine options", help_text=OPTIONS_HELP)
    pool = AddressesField()
    license = _text("Licence", 100)
    notes = _text("Notes", rules.MOST_NOTES, rows=3)
    input_price = _price("Price of a million input tokens")
    output_price = _price("Price of a million output tokens")
    trust_remote_code = CODE
    allow_pickle = PICKLE

    def __init__(self, *given: Any, model: Model, may_trust: bool, **options: Any) -> None:
        options["initial"] = {name: getattr(model, name) for name in rules.EDITABLE}
        super().__init__(*given, **options)
        self.model = model
        adapter, has_files = model.base is not None, model.kind == EngineKind.VLLM and not model.base
        for name in ("task", "engine_args") if adapter else ():
            self.withhold(name, OF_THE_BASE)
        if model.key_secret:
            self.fields["key"].help_text = "A key is stored. Give another one to replace it; empty: it stays."
        else:
            self.withhold("remove_key", "no key is stored")
        for name in ("key", "pool") if model.kind != EngineKind.REMOTE else ():
            self.withhold(name, "it is only for a model on a remote server")
        if not has_files:
            self.withhold("allow_pickle", OF_FILES)
        if not has_files or not (may_trust or model.trust_remote_code):
            self.withhold("trust_remote_code", TRUST_IS_FOR if has_files else OF_FILES)

    def clean(self) -> dict[str, Any]:
        found = super().clean() or self.cleaned_data
        if found.get("key") and found.get("remove_key"):
            self.add_error("key", "Give another key, or remove the one that is stored, not both.")
        return found

    def save(self) -> Model:
        """Raises ModelError."""
        changes = {name: self.cleaned_data[name] for name in self.changed_data if name != "remove_key"}
        if self.cleaned_data.get("remove_key"):
            changes["key"] = ""
        return importer.edit(self.model, **changes)


class FitForm(forms.Form):
    context = forms.IntegerField(label="Context", min_value=1, max_value=2**31 - 1, required=False)
    sequences = forms.IntegerField(label="Sequences at once", min_value=1, max_value=100_000, required=False)


class RunForm(GuardedForm):
    """The options of an operation; the fields are those of `operations.OPTIONS`."""

    kind: OperationKind
    now = _switch("Before all batches", "Interrupts a running batch")
    once = OnceField()

    def __init__(self, *given: Any, model: Model, **options: Any) -> None:
        options["initial"] = {name: default for name, (default, _) in operations.OPTIONS[self.kind].items()}
        super().__init__(*given, **options)
        self.model = model
        for name in operations.NOT_OF_READING if model.task in READING else ():
            if name in self.fields:
                self.withhold(name, f"a model for {model.task} writes no tokens")

    def ask(self, asked_by: str, projects: Collection[int] | None) -> Operation:
        """projects: those that the user sees, None for all. Raises ModelError."""
        data = dict(self.cleaned_data)
        now = data.pop("now")
        del data["once"]
        return operations.ask(self.kind, self.model, now=now, asked_by=asked_by, options=data, projects=projects)


class TestForm(RunForm):
    kind = OperationKind.TEST
    prompt = forms.CharField(label="Question", max_length=10_000, widget=forms.Textarea(attrs={"rows": 2}))
    max_tokens = forms.IntegerField(label="Max tokens")
    field_order = ("prompt", "max_tokens", "now")


class BenchmarkForm(RunForm):
    kind = OperationKind.BENCHMARK
    requests = forms.IntegerField(label="Requests")
    prompt_tokens = forms.IntegerField(label="Input tokens")
    max_tokens = forms.IntegerField(label="Output tokens")
    cold = _switch("Load it again first", "Also measures the load")
    field_order = ("requests", "prompt_tokens", "max_tokens", "cold", "now")


class TuneForm(RunForm):
    kind = OperationKind.TUNE
    file = forms.CharField(
        label="File", required=False, max_length=100, help_text="The id of an input file: its lines are sent"
    )
    minutes = forms.IntegerField(label="Max minutes")
    requests = forms.IntegerField(label="Requests for each setting")
    keep = _switch("Keep the fastest", "Otherwise a button does it afterwards")
    field_order = ("file", "minutes", "requests", "keep", "now")


RUN_FORMS: dict[str, type[RunForm]] = {form.kind.value: form for form in (TestForm, BenchmarkForm, TuneForm)}


def may_trust(request: Request) -> bool:
    return settings.VBS_TRUST_REMOTE_CODE and request.user.has_perm(allowed.TRUST)


def taken(form: forms.Form, step: Callable[[], Any]) -> Any:
    """The result of `step`. When the registry refuses, None, and the form has the message."""
    try:
        return step()
    except ModelError as error:
        form.add_error(None, str(error))
        return None
