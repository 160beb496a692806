"""`manage.py batch` against a running system."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from tests.batches.cli.test_remote import STEERING
from tests.live import Live, line, live
from vbs.run.stack import BASE_DIR, free_port

# The command, against a running system


@pytest.fixture(scope="module")
def vbs():
    with live() as running:
        running.add_scripted(**{"max-num-seqs": 32})
        running.add_scripted("slow", **{"max-num-seqs": 2, "latency-ms": 300})
        running.add_scripted("loads", **{"max-num-seqs": 2, "latency-ms": 300, "start-seconds": 2})
        running.add_scripted("broken", **{"fail-start": "CUDA_out_of_memory:_no_room"})
        yield running


def batch(vbs, *words):
    """Standard output of the command, run in this process: no database is at hand, so it uses none."""
    out = StringIO()
    call_command("batch", *map(str, words), "--url", vbs.url, "--key", vbs.key, stdout=out, stderr=StringIO())
    return out.getvalue()


def file_of(tmp_path, *lines):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def command(vbs, *words, **options):
    """The command as a process of its own, which makes its own key."""
    line = [sys.executable, str(BASE_DIR / "manage.py"), "batch", *map(str, words)]
    return subprocess.Popen(line, env=vbs.stack.environment, text=True, start_new_session=True, **options)


def test_submit_show_list_results_logs(vbs, tmp_path, capfd):
    path = file_of(tmp_path, line("a", "one"), line("b", "two"))
    said = batch(vbs, "submit", path, "--wait", "--metadata", "x=1", 'y=a "quoted" value', "--priority", 5)
    batch_id = said.split()[0]
    assert "2 completed, 0 failed" in said
    phases = "validating|queued|loading|running|writing|completed"
    assert re.match(rf"( *\d+ %  )?({phases})", capfd.readouterr().err)

    shown = json.loads(batch(vbs, "show", batch_id, "--json"))
    assert (shown["status"], shown["priority"]) == ("completed", 5)
    assert shown["metadata"] == {"x": "1", "y": 'a "quoted" value'}
    assert shown["output_file_id"] in batch(vbs, "show", batch_id, "--wait")
    assert (shown["name"], shown["progress"]["phase"]) == ("in", None)
    assert re.search(rf"^in  +completed .* {batch_id}$", batch(vbs, "list", "--limit", 1), re.MULTILINE)
    assert json.loads(batch(vbs, "list", "--json"))[0]["id"] == batch_id

    results = batch(vbs, "results", batch_id)
    assert {json.loads(one)["custom_id"] for one in results.splitlines()} == {"a", "b"}
    batch(vbs, "results", batch_id, "--out", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == results
    assert batch(vbs, "results", batch_id, "--errors") == ""
    assert "Completed: 2 completed" in batch(vbs, "logs", batch_id)
    with pytest.raises(CommandError, match="Cannot cancel a batch with status 'completed'"):
        batch(vbs, "cancel", batch_id)
    with pytest.raises(CommandError, match="nothing to retry"):
        batch(vbs, "retry", batch_id)


def test_results_as_a_table(vbs, tmp_path):
    rows = [{"review": "good", "=stars": "5"}, {"review": "bad", "=stars": "1"}]
    path = file_of(tmp_path, *[line(row["review"], row["review"]) | {"row": row} for row in rows])
    batch_id = batch(vbs, "submit", path, "--wait").split()[0]
    head = "custom_id,review,'=stars,answer,status,error,status_code,model,finish_reason,input_tokens,output_tokens"
    for words in (("--format", "csv", "--out", tmp_path / "out"), ("--out", tmp_path / "out.csv")):
        batch(vbs, "results", batch_id, "--join", "input", *words)
        table = words[-1].read_text(encoding="utf-8-sig").splitlines()
        assert table[0] == head and [one.split(",")[:3] for one in table[1:]] == [
            ["good", "good", "5"],
            ["bad", "bad", "1"],
        ]
    assert batch(vbs, "results", batch_id, "--format", "csv", "--join", "input").lstrip("\ufeff").startswith(head)
    assert json.loads(batch(vbs, "results", batch_id, "--join", "input").splitlines()[0])["review"] == "good"
    for name, begins in (("xlsx", b"PK"), ("parquet", b"PAR1")):
        batch(vbs, "results", batch_id, "--join", "input", "--out", tmp_path / f"out.{name.upper()}")
        assert (tmp_path / f"out.{name.upper()}").read_bytes().startswith(begins)
        words = ("results", batch_id, "--format", name, "--url", vbs.url, "--key", vbs.key)
        piped = command(vbs, *words, stdout=subprocess.PIPE)
        assert piped.stdout.buffer.read().startswith(begins) and piped.wait(timeout=60) == 0
    with pytest.raises(CommandError, match="--errors gives the lines of the error file: leave out"):
        batch(vbs, "results", batch_id, "--errors", "--format", "csv")
    out = StringIO()
    out.isatty = lambda: True
    with pytest.raises(CommandError, match="A terminal cannot show xlsx: name a file with --out"):
        call_command("batch", "results", batch_id, "--format", "xlsx", "--url", vbs.url, "--key", vbs.key, stdout=out)


def test_failed_requests_and_their_retry(vbs, tmp_path):
    path = file_of(tmp_path, line("good"), line("bad", "[[status 400]]"))
    with pytest.raises(
        CommandError, match=r"is completed; 1 of 2 requests failed: 'manage.py batch results .* --errors"
    ):
        batch(vbs, "submit", path, "--wait")
    batch_id = json.loads(batch(vbs, "list", "--json", "--limit", 1))[0]["id"]
    assert [json.loads(one)["custom_id"] for one in batch(vbs, "results", batch_id, "--errors").splitlines()] == ["bad"]
    with pytest.raises(CommandError, match="1 of 1 requests failed"):
        batch(vbs, "retry", batch_id, "--wait")


def test_refused_lines_are_a_table(vbs, tmp_path):
    good, bad = line("ok"), line(f"x{STEERING}") | {"method": f"GET{STEERING}"}
    out = StringIO()
    with pytest.raises(CommandError, match=r"is failed$"):
        call_command(
            *("batch", "submit", str(file_of(tmp_path, good, bad, good)), "--wait", "--url", vbs.url, "--key", vbs.key),
            stdout=out,
        )
    shown = out.getvalue()
    assert "line  code" in shown
    assert any(row.split()[:3] == ["2", "invalid_method", "method"] for row in shown.splitlines())
    assert any(row.split()[:2] == ["3", "duplicate_custom_id"] for row in shown.splitlines())
    assert all(character.isprintable() for character in shown.replace("\n", ""))


def test_a_model_that_does_not_load(vbs, tmp_path):
    out = StringIO()
    words = ["submit", str(file_of(tmp_path, line("a", model="broken"))), "--wait", "--url", vbs.url, "--key", vbs.key]
    with pytest.raises(CommandError, match="is failed"):
        call_command("batch", *words, stdout=out)
    assert "CUDA_out_of_memory" in out.getvalue()


def test_a_table_is_submitted(vbs, tmp_path):
    path = tmp_path / "Bewertungen.csv"
    path.write_bytes("Nr;Größe\n1;zu groß, 1,5 cm\n2;gut\n".encode("cp1252"))
    words = ["--prompt", "Fits? {größe}", "--id-column", "nr", "--max-tokens", 5, "--temperature", 0]
    said = batch(vbs, "submit", path, "--model", "scripted", "--system", "Be short.", *words, "--wait")
    assert "2 completed" in said
    file_id = json.loads(batch(vbs, "show", said.split()[0], "--json"))["input_file_id"]
    first, second = [one for one in vbs.client.files.content(file_id).text.splitlines() if one]
    assert (
        json.loads(first)["row"] == {"Nr": "1", "Größe": "zu groß, 1,5 cm"} and json.loads(second)["custom_id"] == "2"
    )
    body = json.loads(first)["body"]
    assert (body["max_tokens"], body["temperature"]) == (5, 0)
    assert [one["content"] for one in body["messages"]] == ["Be short.", "Fits? zu groß, 1,5 cm"]
    with pytest.raises(CommandError, match="no column 'none': the columns are 'Nr', 'Größe'"):
        batch(vbs, "submit", path, "--model", "scripted", "--prompt", "{none}")
    with pytest.raises(CommandError, match="requests already"):
        batch(vbs, "submit", file_of(tmp_path, line("a")), "--prompt", "x")


def test_the_model_for_lines_that_name_none(vbs, tmp_path):
    request = line("a")
    del request["body"]["model"]
    assert "1 completed" in batch(vbs, "submit", file_of(tmp_path, request), "--model", "scripted", "--wait")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["submit", "/no/such/file"], "There is no file '/no/such/file'"),
        (["submit", __file__, "--metadata", "x"], "--metadata has 'x'"),
        (["submit", __file__], "Invalid file format"),
        (["submit", __file__, "--endpoint", "/v1/x"], "Supported values are"),
        (["submit", __file__, "--priority", "101"], "100"),
        (["show", "batch_none"], "No batch found with id 'batch_none'"),
        (["results", "../files"], "No batch found|Unknown route"),
        (["list", "--limit", "0"], "--limit is 0"),
        (["list", "--project", "x"], "--project is for this server"),
        (["results", "x", "--out", "/dev/null"], "No batch found"),
    ],
)
def test_refusals_are_one_line(vbs, words, message):
    with pytest.raises(CommandError, match=message) as error:
        batch(vbs, *words)
    assert "\n" not in str(error.value)


def test_a_wrong_key_and_a_wrong_address(vbs):
    with pytest.raises(CommandError, match="Incorrect API key"):
        call_command("batch", "list", "--url", vbs.url, "--key", "sk-vbs-wrong")
    with pytest.raises(CommandError, match="gave no whole answer"):
        call_command("batch", "list", "--url", f"http://127.0.0.1:{free_port()}")


def test_no_server_is_one_line(settings):
    settings.VBS_PORT = free_port()
    with pytest.raises(CommandError, match=rf"No vbs answers at http://127.0.0.1:{settings.VBS_PORT}: start it with"):
        call_command("batch", "list")


def keys(vbs: Live):
    """Name and whether it is revoked, of all keys that the command made."""
    code = (
        "from vbs.accounts.models import ApiKey\n"
        "for key in ApiKey.objects.filter(name='manage.py batch'): print('key', bool(key.revoked_at))"
    )
    return [one for one in vbs.manage("shell", "--verbosity=0", "-c", code).splitlines() if one.startswith("key ")]


def test_ctrl_c_leaves_the_batch_and_no_key(vbs, tmp_path):
    """As a process of its own: its key is made in the database, works, and is gone; the output is that of a pipe."""
    path = file_of(tmp_path, *[line(f"r{number}", model="slow") for number in range(400)])
    process = command(vbs, "submit", path, "--wait", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    batch_id = process.stdout.readline().strip()
    assert process.stderr.readline()
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert f"'manage.py batch show {batch_id} --wait' shows its progress again" in said
    assert "Traceback" not in said

    show = command(vbs, "show", batch_id, "--json", stdout=subprocess.PIPE)
    assert json.loads(show.communicate(timeout=60)[0])["status"] in ("validating", "in_progress")
    cancel = command(vbs, "cancel", batch_id, stdout=subprocess.PIPE)
    assert cancel.communicate(timeout=60)[0].strip() in ("cancelling", "cancelled")
    stranger = command(vbs, "list", "--project", "nobody", stderr=subprocess.PIPE)
    assert "There is no project 'nobody'" in stranger.communicate(timeout=60)[1]
    assert keys(vbs) == []


def test_a_live_bar_on_a_terminal(vbs, tmp_path):
    path = file_of(tmp_path, *[line(f"r{number}", model="loads") for number in range(12)])
    ours, theirs = pty.openpty()
    process = command(vbs, "submit", path, "--wait", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""

    def read():
        nonlocal seen
        try:
            while piece := os.read(ours, 4096):
                seen += piece
        except OSError:  # nobody has the other end any more
            pass

    reader = threading.Thread(target=read)
    reader.start()
    process.wait(timeout=90)
    reader.join(timeout=10)
    os.close(ours)
    shown = seen.decode()
    assert process.returncode == 0, shown
    assert "loading loads" in shown
    assert "12/12" in shown
    assert "requests/s" in shown
    assert "loading the model" in shown
    assert shown.index("\x1b[?25l") < shown.index("\x1b[?25h")  # the cursor is back


def test_a_reader_that_leaves_is_no_error(vbs, tmp_path):
    path = file_of(tmp_path, line("big", "[[bytes 3000000]]"))
    batch_id = batch(vbs, "submit", path, "--wait").split()[0]
    words = ["results", batch_id, "--url", vbs.url, "--key", vbs.key]
    process = command(vbs, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(100)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141


def test_the_results_of_a_batch_that_still_runs(vbs, tmp_path):
    path = file_of(tmp_path, *[line(f"r{number}", model="slow") for number in range(60)])
    batch_id = batch(vbs, "submit", path).strip()
    deadline = time.monotonic() + 60
    while not (found := batch(vbs, "results", batch_id)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert json.loads(found.splitlines()[0])["custom_id"].startswith("r")
    assert batch(vbs, "cancel", batch_id).strip() in ("cancelling", "cancelled")
    assert "cancelled" in batch(vbs, "show", batch_id, "--wait")
    assert batch(vbs, "results", batch_id).startswith(found)
