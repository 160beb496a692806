"""Text that others wrote comes out as text: nothing in it is invisible, reorders what is around it, or becomes HTML."""

import html
import re

import pytest
from django.template import Context, Template
from hypothesis import given
from hypothesis import strategies as st

from vbs.pages import plain

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
RAW = {chr(code) for code in range(0xA0) if code < 32 or code >= 127} - {"\n", "\t"} | set(BIDI) | {"\u2028", "\u2029"}
ANY = st.text(st.characters(exclude_categories=())) | st.text(
    st.sampled_from(sorted(RAW) + list("a<&>\"'\n\té😀\ud800"))
)


def shown(text):
    return Template("{% load plain %}{{ text|plain }}").render(Context({"text": text}))


@given(ANY)
def test_nothing_comes_out_raw(text):
    for made in (plain.visible(text), plain.brief(text), shown(text), "".join(run.text for run in plain.runs(text))):
        assert not RAW & set(made)
        made.encode()


@given(ANY)
def test_what_is_visible_stays_as_it_is(text):
    once = plain.visible(text)
    assert plain.visible(once) == once
    assert "".join(run.text for run in plain.runs(text)) == once
    assert plain.brief(plain.brief(text)) == plain.brief(text)


@given(ANY)
def test_html_is_escaped_and_nothing_is_lost(text):
    made = re.sub(r'</?b( class="sign" title="[^"<>]*")?>', "", shown(text))
    assert "<" not in made and ">" not in made
    assert html.unescape(made) == plain.visible(text)


@given(ANY, st.integers(2, 50))
def test_lengths(text, most):
    assert len(plain.brief(text, most)) <= most
    clip = plain.clip(text, most)
    assert clip.shown == plain.visible(clip.text) + ("…" if len(text) > most else "")
    assert clip.text + text[most:] == text and len(clip.text) + clip.left == len(text)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("\x1b[31mred\x1b[0m", "⟨ESC⟩[31mred⟨ESC⟩[0m"),
        ("a\r\nb\rc\0", "a\nb⟨CR⟩c⟨NUL⟩"),
        ("\x9b1m\x7f", "⟨9B⟩1m⟨DEL⟩"),
        ("user\u202ecod.exe", "user⟨RLO⟩cod.exe"),
        ("\ufeffa\u2028b\U000e0041", "⟨BOM⟩a⟨LS⟩b⟨TAG E0041⟩"),
        ("مرحبا שלום naïve 👨‍👩‍👧 x", "مرحبا שלום naïve 👨‍👩‍👧 x"),
        ("\x07\x08\u200ea\u200fb\u061c", "⟨BEL⟩⟨BS⟩⟨LRM⟩a⟨RLM⟩b⟨ALM⟩"),
    ],
)
def test_signs(text, wanted):
    assert plain.visible(text) == wanted


def test_a_sign_can_be_told_from_its_picture():
    assert shown("\x1b⟨ESC⟩") == '<b class="sign" title="U+001B">⟨ESC⟩</b>⟨ESC⟩'
    assert shown("\u202e") == '<b class="sign" title="RIGHT-TO-LEFT OVERRIDE">⟨RLO⟩</b>'


def test_long_texts():
    assert shown("x" * 20_001) == "x" * 20_000 + '<span class="quiet">… 1 characters more</span>'
    assert plain.clip("ä" * 30_000).bytes == 60_000
    assert plain.brief("a\n b\t c" * 100, 5) == "a b…"
    assert shown(None) == "" and shown(12) == "12"
