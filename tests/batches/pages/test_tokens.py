"""How many input tokens a batch will have: from what the model has answered, by its tokenizer, or from bytes."""

import time

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from batches.files import blobs
from batches.pages.new import estimate, tokens
from models_registry.models import Model
from tests.batches.pages.shown import answer, chat, made, request
from vbs.accounts.models import Project

CHAT = "/v1/chat/completions"
ENGLISH, CHINESE = "The kettle boils fast and is quiet. ", "水壶烧水很快而且很安静。"


@pytest.fixture
def project(db):
    return Project.objects.create(name="project")


@pytest.fixture
def model(db):
    return Model.objects.create(name="m", kind="scripted")


@pytest.fixture(autouse=True)
def forget():
    tokens._answered.forget()
    tokens._counted.forget()


def answered(project, prompts, count, **fields):
    """A batch of these prompts, each with as many input tokens as `count` says."""
    messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
    batch = made(project, [request(str(number), messages=one) for number, one in enumerate(messages)], **fields)
    for number, prompt in enumerate(prompts, 1):
        answer(batch, number, chat("yes"), input_tokens=count(prompt))
    return batch


def rate(project, model, *texts, endpoint=CHAT):
    return tokens.rate(project, model, endpoint, texts)


def test_without_anything_a_token_is_four_bytes(project, model):
    found = rate(project, model, ENGLISH)
    assert found.tokens([ENGLISH]) == len(ENGLISH) / 4 and "until m has answered requests" in found.source
    assert 1 <= len(CHINESE) / found.tokens([CHINESE]) <= 1.5, "characters a token"
    assert rate(project, None).source == "Input tokens: taken as one for 4 bytes of text."


def test_the_texts_of_a_body():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    content = [{"type": "text", "text": "What is it?"}, picture]
    body = {"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": 5, "input": ["a", "b"]}
    assert list(tokens.texts_of(body)) == ["What is it?", "a", "b"]


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_what_the_model_has_answered_tells_its_tokens(project, model, text):
    """A template of 20 tokens, and a token for three bytes of text, are found out from prompts of several lengths."""
    answered(project, [text * times for times in range(1, 31)], lambda prompt: 20 + len(prompt.encode()) // 3)
    found = rate(project, model, text)
    assert found.source == "Input tokens: estimated from 30 requests that m has answered."
    for times in (1, 10, 1000):
        wanted = 20 + len(text.encode()) * times / 3
        assert found.tokens([text * times]) == pytest.approx(wanted, rel=0.05)


def test_prompts_of_one_length_tell_a_ratio(project, model):
    answered(project, ["x" * 90] * 10, lambda prompt: 30)
    found = rate(project, model)
    assert (found.per_byte, found.beside) == (1 / 3, 0)


def test_a_few_answers_are_better_than_none(project, model):
    answered(project, ["x" * 10, "x" * 1000], lambda prompt: 500)
    assert rate(project, model).tokens(["x" * 101]) == pytest.approx(100), "no line is drawn through two points"


def test_what_does_not_count(project, model):
    answered(project, ["x" * 90], lambda prompt: 90, endpoint="/v1/embeddings")
    answered(project, ["x" * 90], lambda prompt: 90, model_names=["other"])
    answered(Project.objects.create(name="another"), ["x" * 90], lambda prompt: 90)
    lost = answered(project, ["x" * 90], lambda prompt: 90)
    blobs.remove(lost.input_file.blob)
    assert rate(project, model).per_byte == 1 / 4
    assert rate(project, model, endpoint="/v1/embeddings").per_byte == 1


def test_the_estimate_says_where_it_is_from(project, model):
    answered(project, ["x" * 90] * 10, lambda prompt: 30)
    options = {"endpoint": CHAT, "completion_window": "24h"}
    bodies = [{"model": "m", "messages": [{"role": "user", "content": "y" * 300}]}] * 2
    found = estimate.of(project, options, bodies, 10)
    assert found.input_tokens == 1000 and "10 requests that m has answered" in found.input_source


# The tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    """One that makes a token of each byte."""
    vocabulary = {one: number for number, one in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def counted(project, model, text, seconds=20):
    ends = time.monotonic() + seconds
    while "tokenizer" not in (found := rate(project, model, text)).source and time.monotonic() < ends:
        time.sleep(0.05)
    return found


def test_a_model_that_has_answered_nothing_has_its_tokenizer(project, tokenizer):
    new = Model.objects.create(name="new", kind="vllm", source=str(tokenizer))
    found = counted(project, new, CHINESE * 10_000)
    assert found.per_byte == 1.0, found.source
    assert "counted in the first requests by the tokenizer of new" in found.source
    adapter = Model.objects.create(name="adapter", kind="vllm", source="elsewhere", base=new)
    assert counted(project, adapter, ENGLISH).per_byte == 1.0


def test_a_broken_tokenizer_is_none(project, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    new = Model.objects.create(name="new", kind="vllm", source=str(tmp_path))
    found = counted(project, new, ENGLISH, seconds=3)
    assert found.per_byte == 1 / 4


def test_no_page_waits_for_a_tokenizer(project, tokenizer, monkeypatch):
    monkeypatch.setattr(tokens, "COMMAND", ["sh", "-c", "sleep 2"])
    new = Model.objects.create(name="new", kind="vllm", source=str(tokenizer))
    began = time.monotonic()
    assert rate(project, new, ENGLISH).per_byte == 1 / 4
    assert time.monotonic() - began < 1.5
