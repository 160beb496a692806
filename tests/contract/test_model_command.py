"""`manage.py model` on a distant server: over HTTP alone, with no database of its own (these tests have none)."""

import io
import json
import sys

import pytest
from django.core.management import CommandError, call_command


@pytest.fixture
def run(vbs, operator):
    def command(*words, key=""):
        key = key or operator["Authorization"].split()[1]
        out, err = io.StringIO(), io.StringIO()
        call_command("model", *words, "--url", vbs.stack.url, "--key", key, stdout=out, stderr=err)
        return out.getvalue(), err.getvalue()

    return command


def test_a_model_from_its_beginning_to_its_end(run, vbs):
    assert run("add", "distant", "scripted:", "--arg", "latency-ms=1", "--notes", "n")[0].startswith("distant ")
    assert run("edit", "distant", "--input-price", "0.5")[0].startswith("distant ")
    assert run("alias", "@distant", "distant")[0] == "@distant stands for distant\n"
    shown = json.loads(run("show", "distant")[0])
    assert (shown["notes"], shown["input_price"], shown["aliases"]) == ("n", 0.5, ["@distant"])
    assert shown in json.loads(run("list", "--json")[0])
    out, err = run("test", "@distant", "--prompt", "Hello there")
    assert out == "Hello there\n" and "Loaded distant in" in err
    assert json.loads(run("benchmark", "distant", "--requests", "5", "--json")[0])["result"]["requests"] == 5
    (newest, *_) = json.loads(run("operations", "distant", "--json")[0])
    assert (newest["kind"], newest["state"]) == ("benchmark", "succeeded") and newest["log"]
    assert run("measurements", "distant")[0].splitlines()[1].split()[2] == "benchmark"
    with pytest.raises(CommandError, match="distant is still needed: alias @distant"):
        run("remove", "distant")
    run("alias", "@distant", "--remove")
    assert run("remove", "distant")[0] == "distant is removed\n"


def test_what_the_server_says_and_what_to_do(run, vbs):
    with pytest.raises(CommandError, match=rf"does not exist. 'manage.py model list --url {vbs.stack.url}' lists"):
        run("show", "nobody")
    with pytest.raises(CommandError, match="not an absolute path"):
        run("add", "m", "./folder")
    with pytest.raises(CommandError, match="is not in a folder that models may come from"):
        run("add", "m", "/etc")
    with pytest.raises(CommandError, match="neither a model"):
        run("fit", "nobody")
    with pytest.raises(CommandError, match="copied by a command on the server alone"):
        run("add", "m", "/etc", "--copy")
    with pytest.raises(CommandError, match="No key may allow code"):
        run("edit", "scripted", "--trust-remote-code")
    with pytest.raises(CommandError, match="--operator"):
        run("load", "scripted", key=vbs.key)
    with pytest.raises(CommandError, match="Give a key of that server with --key"):
        run("list", key="sk-vbs-wrong")
    assert run("cleanup", "--dry-run")[0]


def test_a_token_stays_with_who_has_a_shell(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hf_0123456789\n"))
    with pytest.raises(CommandError, match="No key may keep or remove access tokens"):
        run("token", "mine")
