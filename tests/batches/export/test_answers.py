"""What an answer says, of whichever endpoint, as one text; and a prompt."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batches.export import answers
from tests.batches.pages.shown import chat


def choices(*texts):
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for text in texts]}


CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}
RANKED = [{"index": 1, "document": {"text": "b"}, "relevance_score": 0.75}]
ITEMS = [
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]},
    {"type": "function_call", "name": "weather", "arguments": "{}", "call_id": "c"},
]


@pytest.mark.parametrize(
    ("body", "text", "ended"),
    [
        (chat("Good.\n\nVery good."), "Good.\n\nVery good.", "stop"),
        (chat(""), "", "stop"),
        (chat("4", reasoning_content="2 + 2"), "4", "stop"),
        (chat(None, reasoning="2 + 2"), "", "stop"),
        (chat(None, tool_calls=[CALL]), 'weather({"city":"Bern"})', "stop"),
        (chat("Let me see.", tool_calls=[CALL]), 'Let me see.\n\nweather({"city":"Bern"})', "stop"),
        (chat(None, refusal="I will not."), "I will not.", "stop"),
        (choices("a", 'b "c"'), '["a","b \\"c\\""]', "stop"),
        ({"choices": [{"text": " there was", "finish_reason": "length"}]}, " there was", "length"),
        ({"data": [{"embedding": [0.5, -1, 2e-7]}]}, "[0.5,-1,2e-7]", ""),
        ({"data": [{"embedding": [0.5]}, {"embedding": [1.5]}]}, "[[0.5],[1.5]]", ""),
        ({"data": [{"embedding": "AAAAPwAAgD8="}]}, "AAAAPwAAgD8=", ""),
        ({"data": [{"score": 0.25}]}, "0.25", ""),
        ({"data": [{"score": 0.25}, {"score": 1}]}, "[0.25,1]", ""),
        ({"results": RANKED}, json.dumps(RANKED, separators=(",", ":")), ""),
        ({"output": ITEMS, "status": "completed"}, "Yes.\n\nweather({})", "completed"),
        ({"output": [], "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "",
         "max_output_tokens"),
        ({"error": {"message": "broken"}}, "broken", ""),
        ({}, "", ""),
        ("text", "text", ""),
        ([1, None], "[1,null]", ""),
    ],
)  # fmt: skip
def test_answers(body, text, ended):
    assert answers.answer(json.dumps(body)) == (text, ended)


def test_an_answer_that_is_no_json_is_itself():
    assert answers.answer("<html>") == ("<html>", "")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 3}, "Why?"),
        (
            {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]},
            "system: Be brief.\n\nuser: Why?",
        ),
        ({"prompt": "Once"}, "Once"),
        ({"prompt": [1, 2]}, "[1,2]"),
        ({"input": ["a", "b"]}, "input 1: a\n\ninput 2: b"),
        ({"query": "q", "documents": ["d"]}, "query: q\n\ndocuments 1: d"),
        (
            {"messages": [{"role": "user", "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "image_url", "image_url": {"url": "https://x.example/y.png"}},
            ]}]},
            "user: What is it?\n\nuser: [image: image/png, 3 bytes]\n\nuser: https://x.example/y.png",
        ),
        ({}, ""),
        (None, ""),
    ],
)  # fmt: skip
def test_prompts(body, text):
    assert answers.prompt(body) == text


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KNOWN = ["choices", "data", "results", "output", "error", "status", "messages", "prompt", "input", "incomplete_details"]
bodies = st.dictionaries(st.sampled_from(KNOWN), values | st.lists(values, max_size=3), max_size=4)


@given(body=bodies | values)
def test_whatever_comes_is_a_text(body):
    said, why = answers.answer(json.dumps(body))
    assert isinstance(said, str) and isinstance(why, str) and isinstance(answers.prompt(body), str)
