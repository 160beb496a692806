"""Texts taken apart into words, queries, and where a text has what was searched for. Without a database."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batches.search import texts
from batches.search.words import MOST_CHARACTERS, MOST_QUERY, Term, around, spelled, terms, tsquery, vector, words


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("The kettle's lid.", ["the", "kettle", "s", "lid"]),
        ("snake_case a-b a/b x.y", ["snake", "case", "a", "b", "a", "b", "x", "y"]),
        ("GRÖSSE Größe ＷＩＤＥ", ["grösse", "grösse", "wide"]),
        ("е́ Привет שלום مرحبا", ["е", "привет", "שלום", "مرحبا"]),
        ("你好world 東京タワー", ["你", "好", "world", "東", "京", "タ", "ワ", "ー"]),
        ("한국어 검색", ["한국어", "검색"]),
        ("\0 \x1b[31m ' \\ : & | ! <->", ["31m"]),
        ("x" * 100, ["x" * 64]),
        ("", []),
    ],
)
def test_words(text, wanted):
    assert list(words(text)) == wanted


def test_no_more_of_a_text_is_read_than_is_searched():
    assert len(list(words("a " * 10**6))) == MOST_CHARACTERS // 2
    assert len(list(words("\ufdfa" * MOST_CHARACTERS))) < MOST_CHARACTERS


def test_a_vector_has_each_word_once_with_its_places():
    assert vector(7, ["to be or", "to be"]) == "'7:to':1,5 '7:be':2,6 '7:or':3"
    many = vector(7, ["word " * 1000])
    assert many.startswith("'7:word':1,2,3,") and many.endswith(",255")


@pytest.mark.parametrize(
    "query, wanted",
    [
        ("kettle", [Term(("kettle",), True, False)]),
        ('"The Kettle" fast', [Term(("the", "kettle"), False, False), Term(("fast",), True, False)]),
        ('good -bad -"very bad"', [Term(("good",), True, False), Term(("bad",), True, True),
                                   Term(("very", "bad"), False, True)]),
        ("foo-bar@x.com", [Term(("foo", "bar", "x", "com"), True, False)]),
        ("東京", [Term(("東", "京"), True, False)]),
        ('"not closed', [Term(("not", "closed"), False, False)]),
        ("' & | ! :* <-> ()", []), ("-", []), ('""', []), ("", []),
    ],
)  # fmt: skip
def test_terms(query, wanted):
    assert list(terms(query)) == wanted


def test_a_query_is_bounded():
    assert len(terms("a " * 10**6)) == MOST_QUERY // 2


def test_how_postgresql_reads_a_query():
    assert tsquery(7, terms('foo-ba "a b" -c')) == "('7:foo' <-> '7:ba':*) & ('7:a' <-> '7:b') & !('7:c':*)"


# Hits


def marked(text, query):
    return "".join(f"[{one.text}]" if one.hit else one.text for one in around(text, spelled(terms(query))))


@pytest.mark.parametrize(
    "text, query, wanted",
    [
        ("It boils fast, faster.", "fast", "It boils [fast], [faster]."),
        ("breakfast fast", '"fast"', "breakfast [fast]"),
        ("faster", '"fast"', ""),
        ("The  Kettle\nis hot", '"kettle is"', "The [Kettle is] hot"),
        ("a-b a_b", "a-b", "[a-b] [a_b]"),
        ("tokyo 東京タワー", "東京", "tokyo [東京]タワー"),
        ("good and bad", "good -bad", "[good] and bad"),
        ("<b>x</b>", "b", "<[b]>x</[b]>"),
        ("nothing", "else", ""),
        ("(a+)+$", "a", "([a]+)+$"),
    ],
)
def test_what_is_marked(text, query, wanted):
    assert marked(text, query) == wanted


def test_of_a_long_text_the_part_with_the_hit_is_shown():
    text = "lorem ipsum " * 400 + "the needle is here " + "dolor sit " * 400
    shown = marked(text, "needle")
    assert "the [needle] is here" in shown and shown.startswith("…") and shown.endswith("…") and len(shown) < 180


@given(st.text(), st.text(max_size=60))
def test_any_text_and_any_query(text, query):
    found = terms(query)
    assert "\0" not in tsquery(1, found) + vector(1, [text])
    if any(not term.excluded for term in found):
        shown = around(text, spelled(found))
        assert not shown or sum(len(one.text) for one in shown) <= 162


# What of a request is searched


def line(**body):
    return json.dumps({"custom_id": "a", "body": body}).encode()


def test_what_the_user_says_comes_first():
    messages = [{"role": "system", "content": "rules " * 2000}, {"role": "user", "content": "the question"}]
    found = texts.prompt(line(messages=messages))
    assert found[0] == "the question" and sum(map(len, found)) == MOST_CHARACTERS


@pytest.mark.parametrize(
    "body, wanted",
    [
        ({"prompt": "once"}, ["once"]),
        ({"input": ["a", "b"]}, ["a", "b"]),
        ({"query": "q", "documents": ["d", "e"]}, ["q", "d", "e"]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "look"},
          {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]}, ["look"]),
        ({"messages": 7}, None), ({}, []),
    ],
)  # fmt: skip
def test_prompts_of_every_endpoint(body, wanted):
    found = texts.prompt(line(**body))
    assert found == wanted or (wanted is None and found)


def test_lines_that_are_odd_or_cut():
    assert texts.prompt(b"no json") == ["no json"] and texts.prompt(b'{"body": 5}') == ["5"]
    assert texts.prompt(b"[1]") == ["[1]"] and texts.prompt(b"\xff\xfe")
    long = line(messages=[{"role": "user", "content": 'say "hi" \u00e4'}, {"role": "user", "content": "x" * 100}])
    first, second = texts.prompt(long[:-40], is_whole=False)
    assert first == 'say "hi" ä' and set(second) == {"x"}


@pytest.mark.parametrize(
    "answer, wanted",
    [
        ({"choices": [{"message": {"content": "yes", "reasoning": "hm"}}]}, ["yes"]),
        ({"choices": [{"text": "a"}, {"text": "b\nc"}]}, ["a", "b\nc"]),
        ({"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": '{"x":1}'}}]}}]},
         ['f {"x":1}']),
        ({"data": [{"embedding": [0.1] * 384}]}, []), ({"data": [{"score": 0.5}]}, []),
        ({"results": [{"document": {"text": "d"}, "relevance_score": 1}]}, ["d"]),
        ({"error": {"message": "too long"}}, ["too long"]), (7, ["7"]), ({"choices": 7}, []),
    ],
)  # fmt: skip
def test_answers_of_every_endpoint(answer, wanted):
    assert texts.answer(json.dumps(answer)) == wanted


def test_answers_that_are_odd_or_cut():
    assert texts.answer("no json") == ["no json"]
    assert texts.answer('{"choices":[{"message":{"content":"long \\u00e4 ans', is_whole=False) == ["long ä ans"]
    assert texts.answer('{"data":[{"embedding":[0.1,', is_whole=False) == []
