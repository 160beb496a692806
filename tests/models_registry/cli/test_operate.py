"""`manage.py model load|unload|test|benchmark|cancel|measurements`: what it follows, prints, and how it ends."""

import json
import threading
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from models_registry.cli.operate import new_lines
from models_registry.models import Model, Operation

pytestmark = pytest.mark.django_db(transaction=True)


def run(*words):
    out, err = StringIO(), StringIO()
    call_command("model", *words, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


@pytest.fixture
def serving(gpu, monkeypatch):
    """A worker that serves what is asked as soon as it is asked."""
    over = threading.Event()

    def work():
        while not over.wait(0.05):
            gpu.serve()
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    yield gpu
    over.set()
    thread.join(20)


def test_the_command_follows_and_tells(add_model, serving):
    add_model()
    out, err = run("load", "scripted")
    assert "seconds" in out and "Loaded scripted in" in err and "manage.py up" not in err
    out, err = run("test", "scripted", "--prompt", "Hello\x1b[31m there")
    assert out == "Hello\\x1b[31m there\n"
    out, _ = run("benchmark", "scripted", "--requests", "20", "--json", "--now")
    shown = json.loads(out)
    assert (shown["state"], shown["result"]["requests"], shown["priority"]) == ("succeeded", 20, 101)
    out, _ = run("measurements", "scripted")
    assert len({len(row) for row in out.splitlines()}) == 1 and sorted(
        (row.split()[2] for row in out.splitlines()[1:]), reverse=True
    ) == ["load", "benchmark"]
    assert len(json.loads(run("measurements", "scripted", "--json")[0])) == 2
    assert "unloaded" in run("unload", "scripted")[0]


def test_the_command_tunes_and_keeps(add_model, serving):
    add_model(**{"max-num-seqs": 1, "latency-ms": 200})
    out, err = run("tune", "scripted", "--requests", "12", "--minutes", "5", "--max-tokens", "2")
    titles, first, *others, last = out.splitlines()
    assert titles.split()[:3] == ["setting", "req/s", "tokens/s"] and first.split()[:3] == ["as", "it", "is"]
    assert any(row.startswith("*") and "max-num-seqs 4" in row for row in others)
    assert "as it is:" in err and "The fastest: max-num-seqs 4" in err
    operation = Operation.objects.get()
    assert f"keep {operation.pk}" in last and Model.objects.get().engine_args["max-num-seqs"] == 1
    assert run("keep", operation.pk)[0] == "scripted now has the setting: max-num-seqs 4\n"
    assert Model.objects.get().engine_args["max-num-seqs"] == 4
    with pytest.raises(CommandError, match="No operation found"):
        run("keep", "op_1")
    with pytest.raises(CommandError, match="there is no file 'file-x'"):
        run("tune", "scripted", "--file", "file-x")


def test_the_command_fails_when_it_failed(add_model, serving):
    add_model(**{"fail-start": "ValueError: the weights are odd"})
    with pytest.raises(CommandError, match="the weights are odd") as error:
        run("load", "scripted")
    assert error.value.returncode == 1


def test_the_command_says_that_nobody_works(add_model):
    add_model()
    out, err = run("load", "scripted", "--detach")
    assert "manage.py up" in err and out.strip() == Operation.objects.get().pk
    assert run("cancel", out.strip())[0] == f"{out.strip()} is cancelled\n"
    with pytest.raises(CommandError, match="has ended already"):
        run("cancel", out.strip())
    with pytest.raises(CommandError, match=r"No operation found with id 'op_1'\. 'manage.py model operations' lists"):
        run("cancel", "op_1")
    with pytest.raises(CommandError, match="The model 'nobody' does not exist"):
        run("test", "nobody")
    with pytest.raises(CommandError, match="1 to 10,000"):
        run("benchmark", "scripted", "--requests", "10001")


def test_the_list_of_operations(add_model):
    first, second = add_model(), add_model(name="other")
    assert "no such operations" in run("operations")[1]
    asked = [run(verb, name, "--detach")[0].strip() for verb, name in (("load", "scripted"), ("unload", "other"))]
    Operation.objects.filter(pk=asked[0]).update(state="failed", error="the weights\x1b[31m are odd\nall of them")
    titles, *rows = run("operations")[0].splitlines()
    assert [row.split()[:4] for row in rows] == [
        [asked[1], "unload", "other", "queued"], [asked[0], "load", "scripted", "failed"],
    ]  # fmt: skip
    assert rows[1].endswith("the weights\\x1b[31m are odd") and titles.startswith("id ") and "manage.py" in rows[0]
    assert [row.split()[0] for row in run("operations", "--open")[0].splitlines()[1:]] == [asked[1]]
    assert [row.split()[0] for row in run("operations", first.name)[0].splitlines()[1:]] == [asked[0]]
    shown = json.loads(run("operations", second.name, "--json")[0])
    assert [(one["id"], one["model"]) for one in shown] == [(asked[1], "other")]
    with pytest.raises(CommandError, match="The model 'nobody' does not exist"):
        run("operations", "nobody")
    Operation.objects.bulk_create(Operation(model=first, kind="test") for _ in range(30))
    assert len(run("operations")[0].splitlines()) == 1 + 20


def test_interrupting_the_command_does_not_interrupt_the_work(add_model, monkeypatch):
    add_model()

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("models_registry.cli.operate.time.sleep", interrupt)
    with pytest.raises(
        CommandError, match=r"The operation continues\. To cancel it: 'manage.py model cancel op_"
    ) as error:
        run("load", "scripted")
    assert error.value.returncode == 130 and Operation.objects.get().state == "queued"


@pytest.mark.parametrize(
    "log, last, new",
    [
        ("a\nb\n", "", ["a", "b"]),
        ("a\nb\nhalf", "a", ["b"]),
        ("a\nb\n", "b", []),
        ("c\nd\n", "gone", ["c", "d"]),
        ("", "", []),
    ],
)
def test_the_lines_that_were_not_shown_yet(log, last, new):
    assert new_lines(log, last) == new
