"""The parameters of the registry's routes. Answers are in registry_wire and hub_wire.

Serializers check only types and sizes; models_registry/catalog checks whether a model can be added or changed.
"""

from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError

from models_registry.catalog.add import MOST_SOURCE
from models_registry.catalog.paste import MOST_TEXT
from models_registry.catalog.rules import MOST_ADDRESSES, MOST_NOTES, MOST_URL
from models_registry.hub.tokens import MOST_TOKEN
from models_registry.remote_keys import MOST_KEY
from vbs.openai.fields import Flag, PlainObject, PlainText

SOURCES = ("source", "hub_id", "paste")


class _Strict(serializers.Serializer[Any]):
    """Refuses a field that it does not know: a misspelt flag must not count as false."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := sorted(set(map(str, data)) - set(self.fields))):
            name = unknown[0][:100]
            message = f"Unknown parameter: '{name}'. The parameters are {', '.join(self.fields)}."
            raise ValidationError({name: [ErrorDetail(message, "unknown_parameter")]})
        return super().to_internal_value(data)


class Price(serializers.DecimalField):
    """The price of a million tokens, in VBS_CURRENCY."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_digits=12, decimal_places=4, min_value=0, **options)


class ModelAbout(_Strict):
    """The parameters that every model has."""

    task = PlainText(required=False, max_length=16, help_text="chat, completion, embedding or score")
    engine_args = PlainObject(required=False, help_text="Options of vLLM for its engine, by name")
    pool = serializers.ListField(
        child=PlainText(max_length=MOST_URL),
        required=False,
        max_length=MOST_ADDRESSES - 1,
        help_text="URLs of further servers of a remote model",
    )
    key = PlainText(
        required=False,
        allow_blank=True,
        max_length=MOST_KEY,
        write_only=True,
        help_text="The key of a remote model's server; empty: none. No answer has it",
    )
    license = PlainText(required=False, allow_blank=True, max_length=100, help_text="Under which license it is")
    notes = PlainText(required=False, allow_blank=True, max_length=MOST_NOTES, help_text="Notes for people")
    trust_remote_code = Flag(required=False, help_text="Run code that comes with the model; no key may set it")
    allow_pickle = Flag(required=False, help_text="Take weights as pickle, which may run code")


class ModelChange(ModelAbout):
    token = PlainText(required=False, allow_blank=True, max_length=100, help_text="Name of a token of the hub")
    input_price = Price(required=False, allow_null=True, help_text="Of a million input tokens")
    output_price = Price(required=False, allow_null=True, help_text="Of a million output tokens")


class ModelCreate(ModelAbout):
    """One of SOURCES says where the model is. base: the model is an adapter of this one. fetch: download it at once."""

    name = PlainText(required=False, max_length=200, help_text="What requests name; needed unless paste tells it")
    source = PlainText(  # type: ignore[assignment]  # DRF has one of its own
        required=False, max_length=MOST_SOURCE, help_text="A folder of the server, or the URL of another server"
    )
    hub_id = PlainText(required=False, max_length=200, help_text="A repository of the hub, such as org/name")
    revision = PlainText(
        required=False, allow_blank=True, max_length=200, help_text="A branch, tag or commit of the repository"
    )
    file = PlainText(required=False, allow_blank=True, max_length=500, help_text="Its one GGUF file to fetch")
    token = PlainText(required=False, max_length=100, help_text="Name of a token of the hub")
    paste = PlainText(required=False, max_length=MOST_TEXT, help_text="A link, an id or a command line")
    base = PlainText(required=False, max_length=200, help_text="The model whose adapter this is")
    remote_name = PlainText(
        required=False, allow_blank=True, max_length=200, help_text="What the other server calls the model"
    )
    copy = Flag(required=False, default=False, help_text="Copy the folder; for a command on the server alone")
    fetch = Flag(required=False, default=False, help_text="Start its download at once")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        given = [place for place in SOURCES if attrs.get(place)]
        if len(given) != 1:
            raise ValidationError(
                f"Give one of {', '.join(SOURCES)} to say where the model is. Given: {', '.join(given) or 'none'}.",
                "invalid_value",
            )
        if not attrs.get("name") and given != ["paste"]:
            raise ValidationError({"name": [ErrorDetail("This field is required.", "required")]})
        return attrs


class AliasPut(_Strict):
    model = PlainText(max_length=200, help_text="The model that the alias stands for")


class TokenPut(_Strict):
    token = PlainText(max_length=MOST_TOKEN, allow_blank=True, help_text="The access token")


class PasteRead(_Strict):
    text = PlainText(max_length=MOST_TEXT, help_text="A link, an id or a command line")


class OperationAsk(_Strict):
    """options: the operation's own. now: run it before all other work, and interrupt what runs."""

    options = PlainObject(required=False, help_text="Options of the operation, by name")
    priority = serializers.IntegerField(
        min_value=-100, max_value=100, required=False, help_text="As of a batch; a higher one goes first"
    )
    now = Flag(required=False, default=False, help_text="Run it before all other work, and interrupt what runs")
