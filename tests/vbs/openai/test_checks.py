"""What is told of a wrong parameter: its name, its value, and what to send instead, in our words."""

import pytest
from rest_framework import serializers

from vbs.openai.checks import checked
from vbs.openai.errors import InvalidRequest
from vbs.openai.fields import Flag, PlainObject, PlainText


class Sent(serializers.Serializer):
    text = PlainText(max_length=5, required=False)
    priority = serializers.IntegerField(min_value=-100, max_value=100, required=False)
    now = Flag(required=False)
    options = PlainObject(required=False)
    names = serializers.ListField(child=PlainText(), allow_empty=False, max_length=2, required=False)
    price = serializers.DecimalField(max_digits=4, decimal_places=2, required=False)
    file = serializers.FileField(required=False)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"text": 5}, "Invalid 'text' (5): it must be a string, not a number."),
        ({"text": None}, "Invalid 'text': it must not be null. Send a value, or leave it out."),
        ({"text": ""}, "Invalid 'text' (''): it is empty. Send a text, or leave it out."),
        (
            {"text": "a\0"},
            "Invalid 'text' ('a\\x00'): it has a NUL or half a character (a lone surrogate). Leave it out.",
        ),
        ({"text": "abcdef"}, "Invalid 'text' ('abcdef'): it may have at most 5 characters."),
        ({"priority": 1000}, "Invalid 'priority' (1000): it must be at most 100."),
        ({"priority": -1000}, "Invalid 'priority' (-1000): it must be at least -100."),
        ({"priority": "high"}, "Invalid 'priority' ('high'): it must be a whole number."),
        ({"now": "yes"}, "Invalid 'now' ('yes'): it must be true or false, not a string."),
        ({"options": []}, "Invalid 'options': it must be an object, not an array."),
        ({"names": []}, "Invalid 'names': it is empty. Send at least one element."),
        ({"names": ["a", "b", "c"]}, "Invalid 'names': it may have at most 2 elements."),
        ({"names": {"a": 1}}, "Invalid 'names': it must be an array."),
        ({"price": "1.234"}, "Invalid 'price' ('1.234'): it may have at most 2 decimal places."),
        ({"price": "x"}, "Invalid 'price' ('x'): it must be a number."),
        ({"file": "x"}, "Invalid 'file' ('x'): it must be a file: send it as a part of a form that has a file name."),
        ([], "The body must be a JSON object."),
        (None, "The body must be a JSON object, not null."),
    ],
)
def test_what_is_told(sent, message):
    with pytest.raises(InvalidRequest) as refused:
        checked(Sent(data=sent))
    assert refused.value.message == message
