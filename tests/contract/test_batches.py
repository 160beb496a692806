"""Batches through the official client: what the acceptance tests leave open, and the extensions."""

import csv
import io
import json
import time

import openai
import openpyxl
import pyarrow.parquet
import pytest

from tests.live import CHAT, line


def test_every_field_of_the_batch_object_is_there(vbs):
    batch = vbs.run([line("a")], metadata={"team": "x"})
    wire = vbs.http.get(f"/batches/{batch.id}").json()
    for name in openai.types.Batch.model_fields:
        assert name in wire, name
    ours = (
        "name",
        "priority",
        "progress",
        "queue_position",
        "estimated_start_at",
        "estimated_completion_at",
        "attempts",
    )
    for name in ours:
        assert name in wire, name
    assert wire["estimate"] is None, "nothing is left of it"
    assert wire["progress"]["phase"] is None and wire["name"]
    assert wire["usage"]["total_tokens"] == wire["usage"]["input_tokens"] + wire["usage"]["output_tokens"] > 0


def test_input_file_id_and_metadata_come_back_as_sent(vbs):
    batch = vbs.client.batches.create(
        input_file_id="file-é 'quoted'", endpoint=CHAT, completion_window="24h", metadata={"k": "\U0001f600 <b>"}
    )
    ended = vbs.wait(batch)
    assert ended.input_file_id == "file-é 'quoted'" and ended.metadata == {"k": "\U0001f600 <b>"}
    assert ended.status == "failed" and ended.errors.data[0].param == "file_id"


@pytest.mark.parametrize(
    "body, param",
    [
        ({}, "input_file_id"),
        ({"input_file_id": 5}, "input_file_id"),
        ({"input_file_id": "x\0"}, "input_file_id"),
        ({"input_file_id": "x"}, "endpoint"),
        ({"input_file_id": "x", "endpoint": CHAT}, "completion_window"),
        ({"input_file_id": "x", "endpoint": CHAT, "completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "x", "endpoint": "/v1/x", "completion_window": "24h"}, "endpoint"),
        ({"input_file_id": "x", "endpoint": CHAT, "completion_window": "24h", "priority": 101}, "priority"),
        ({"input_file_id": "x", "endpoint": CHAT, "completion_window": "24h", "priority": "high"}, "priority"),
        ({"input_file_id": "x", "endpoint": CHAT, "completion_window": "24h", "metadata": []}, "metadata"),
        ({"input_file_id": "x", "endpoint": CHAT, "completion_window": "24h", "metadata": {"a": "\0"}}, "metadata"),
        (
            {
                "input_file_id": "x",
                "endpoint": CHAT,
                "completion_window": "24h",
                "output_expires_after": {"anchor": "created_at", "seconds": 1},
            },
            "output_expires_after.seconds",
        ),
    ],
)
def test_create_refuses_and_names_the_parameter(vbs, body, param):
    answer = vbs.http.post("/batches", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error"), error
    assert error["message"] and error["code"]


def test_the_endpoint_message_lists_what_is_supported(vbs):
    body = {"input_file_id": "x", "endpoint": "/v1/x", "completion_window": "24h"}
    message = vbs.http.post("/batches", json=body).json()["error"]["message"]
    assert message.startswith("Invalid value: '/v1/x'. Supported values are: '/v1/chat/completions'")


@pytest.mark.parametrize("given, priority", [("7", 7), ("-100", -100), ("+3", 3), ("101", 0), ("1000", 0), ("high", 0),
                                             ("", 0), ("7.0", 0), (" 7", 0), ("\u0667", 0)])  # fmt: skip
def test_priority_also_by_metadata(vbs, given, priority):
    """Whatever is no whole number from -100 to 100 is metadata like any other."""
    batch = vbs.create([line("a")], metadata={"priority": given})
    assert batch.metadata == {"priority": given}
    assert vbs.http.get(f"/batches/{batch.id}").json()["priority"] == priority


def test_a_batch_has_a_name(vbs):
    """Given by the official client's `extra_body`, in a form, or its file's."""
    named = vbs.create([line("a")], extra_body={"name": "Reviews é"})
    assert named.name == "Reviews é" == vbs.client.batches.retrieve(named.id).name
    files = {"file": ("March.jsonl", json.dumps(line("a")).encode())}
    assert vbs.http.post("/batches", files=files).json()["name"] == "March"
    both = vbs.http.post("/batches", files=files, data={"name": "April"}).json()
    assert both["name"] == "April"
    changed = vbs.http.post(f"/batches/{both['id']}", json={"name": "May"}).json()
    assert changed["name"] == "May" == vbs.http.get(f"/batches/{both['id']}").json()["name"]
    assert vbs.wait(named).name == "Reviews é"


def test_it_expires_and_keeps_what_was_done(vbs):
    batch = vbs.run([line(str(n), model="slow") for n in range(2000)], completion_window="2s")
    assert batch.status == "expired" and batch.expired_at >= batch.expires_at
    good, bad = vbs.books(batch, [str(n) for n in range(2000)])
    assert good and bad[0]["response"] is None and bad[0]["error"]["code"] == "batch_expired"


def test_a_model_that_does_not_load_fails_its_batch_and_the_next_runs(vbs):
    broken, fine = vbs.create([line("a", model="broken")]), vbs.create([line("a")])
    ended = vbs.wait(broken)
    assert ended.status == "failed" and ended.errors.data[0].code == "model_load_failed"
    assert "CUDA_out_of_memory" in ended.errors.data[0].message
    assert vbs.wait(fine).status == "completed"


def test_embeddings_and_what_they_score(vbs):
    lines = [
        {
            "custom_id": f"e{n}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "vectors", "input": f"t{n}"},
        }
        for n in range(10)
    ]
    batch = vbs.run(lines, endpoint="/v1/embeddings")
    good, bad = vbs.books(batch, [f"e{n}" for n in range(10)])
    assert not bad and all(one["response"]["body"]["data"][0]["embedding"] for one in good)
    pair = {"model": "vectors", "query": "a b", "documents": ["c", "b a"]}
    ranked = vbs.run([{"custom_id": "r", "method": "POST", "url": "/v1/rerank", "body": pair}], endpoint="/v1/rerank")
    good, bad = vbs.books(ranked, ["r"])
    assert not bad and [one["index"] for one in good[0]["response"]["body"]["results"]] == [1, 0]
    assert ranked.usage.input_tokens > 0 == ranked.usage.output_tokens
    refused = vbs.run([line("a", model="vectors")])
    assert refused.status == "failed" and "vectors" in refused.errors.data[0].message


def test_results_and_errors_while_it_runs_and_afterwards(vbs):
    lines = [line(f"{n}", f"text {n}", model="slow") for n in range(150)] + [line("bad", model="slow", max_tokens=-1)]
    batch = vbs.create(lines)
    vbs.wait(batch, {"in_progress"}, done=5)
    early = vbs.http.get(f"/batches/{batch.id}/results").text.splitlines()
    assert 5 <= len(early) < 150 and all(json.loads(one)["response"] for one in early)
    assert (during := vbs.http.get(f"/batches/{batch.id}").json())["queue_position"] == 0
    assert 0 < during["progress"]["percent"] < 100 and during["progress"]["requests_per_second"] > 0
    ended = vbs.wait(batch)
    late = vbs.http.get(f"/batches/{batch.id}/results").text
    assert late == vbs.client.files.content(ended.output_file_id).text and len(late.splitlines()) == 150
    assert json.loads(vbs.http.get(f"/batches/{batch.id}/errors").text)["custom_id"] == "bad"
    logs = vbs.http.get(f"/batches/{batch.id}/logs")
    assert logs.headers["content-type"].startswith("text/plain")
    assert "Created" in logs.text and "Validated: 151" in logs.text and "Completed: 150" in logs.text


def test_results_as_a_table_while_it_runs_and_afterwards(vbs):
    lines = [line(f"{n}", f"text {n}", model="slow") | {"row": {"n": str(n), "=text": f"{n}"}} for n in range(150)]
    lines.append(line("bad", model="slow", max_tokens=-1) | {"row": {"n": "bad"}})
    batch = vbs.create(lines)
    vbs.wait(batch, {"in_progress"}, done=5)

    def table(**query):
        answer = vbs.http.get(f"/batches/{batch.id}/results", params={"join": "input", **query})
        assert answer.status_code == 200, answer.text
        return answer

    early = list(csv.DictReader(io.StringIO(table(format="csv").content.decode("utf-8-sig"))))
    assert 5 <= len(early) < 151 and all(one["answer"] for one in early if one["n"] != "bad")
    vbs.wait(batch)
    head = ["custom_id", "n", "=text", "answer", "status", "error", "status_code", "model", "finish_reason"]
    head += ["input_tokens", "output_tokens"]
    rows = [json.loads(one) for one in table(format="jsonl").text.splitlines()]
    assert [one["n"] for one in rows] == [*map(str, range(150)), "bad"] and list(rows[0]) == head
    assert rows[0]["status"] == "completed" and rows[0]["output_tokens"] > 0 and rows[-1]["status"] == "failed"
    assert rows[-1]["error"] and rows[-1]["status_code"] == 400 and rows[-1]["answer"] is None
    sheet = openpyxl.load_workbook(io.BytesIO(table(format="xlsx").content)).worksheets[0]
    assert [[cell.value for cell in row] for row in sheet] == [
        head,
        *([one.get(name) for name in head] for one in rows),
    ]
    parquet = pyarrow.parquet.read_table(pyarrow.BufferReader(table(format="parquet").content))
    assert parquet.to_pylist() == [{name: one.get(name) for name in head} for one in rows]
    assert "'=text" in table(format="csv").text.splitlines()[0]
    refused = vbs.http.get(f"/batches/{batch.id}/results", params={"format": "xls"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "format")


def test_every_line_is_one_record_for_every_reader(vbs):
    ids = [f"a{end}b" for end in ("\u2028", "\u2029", "\u0085", "\x1c", "\v", "\f")]
    batch = vbs.run([line(one, f"say {one}") for one in ids] + [line("c\u2028d", max_tokens=-1)])
    for file_id, address, wanted in (
        (batch.output_file_id, "results", ids),
        (batch.error_file_id, "errors", ["c\u2028d"]),
    ):
        read = list(vbs.client.files.content(file_id).iter_lines())
        read += vbs.http.get(f"/batches/{batch.id}/{address}").text.splitlines()
        assert sorted(json.loads(one)["custom_id"] for one in read) == sorted(wanted * 2)


def test_cancel_is_quick(vbs):
    batch = vbs.create([line(f"{n}", model="slow") for n in range(1000)])
    vbs.wait(batch, {"in_progress"}, done=1)
    asked = time.monotonic()
    assert vbs.client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    ended = vbs.wait(batch)
    assert ended.status == "cancelled" and time.monotonic() - asked < 4
    counts = ended.request_counts
    assert len(vbs.lines(ended.output_file_id)) == counts.completed
    assert len(vbs.lines(ended.error_file_id)) == counts.failed == counts.total - counts.completed > 0


def test_cancel_while_it_waits(vbs):
    running = vbs.create([line(f"{n}", model="slow") for n in range(3000)])
    vbs.wait(running, {"in_progress"}, done=1)
    waiting = vbs.create([line("a", model="slow")])
    while not vbs.retrieve(waiting.id).request_counts.total:  # until it is read it has no lines to account for
        time.sleep(0.05)
    vbs.client.batches.cancel(waiting.id)
    ended = vbs.wait(waiting)
    assert (ended.status, ended.output_file_id, ended.request_counts.failed) == ("cancelled", None, 1)
    (left,) = vbs.lines(ended.error_file_id)
    assert (left["custom_id"], left["response"], left["error"]["code"]) == ("a", None, "batch_cancelled")
    again = vbs.retrieve(vbs.http.post(f"/batches/{waiting.id}/retry").json()["id"])
    vbs.client.batches.cancel(running.id)
    assert [one["custom_id"] for one in vbs.books(vbs.wait(again), ["a"])[0]] == ["a"]


def test_delete_cancels_and_hides(vbs):
    batch = vbs.create([line(f"{n}", model="slow") for n in range(1000)])
    vbs.wait(batch, {"in_progress"}, done=1)
    answer = vbs.http.delete(f"/batches/{batch.id}").json()
    assert answer == {"id": batch.id, "object": "batch", "deleted": True}
    with pytest.raises(openai.NotFoundError):
        vbs.client.batches.retrieve(batch.id)
    assert batch.id not in [one.id for one in vbs.client.batches.list(limit=100)]
    for _ in range(100):
        if not vbs.http.get("/queue").json()["running"]:
            break
        time.sleep(0.1)
    else:
        pytest.fail("it still runs")


def test_retry_runs_the_failed_and_the_expired(vbs, tmp_path):
    once = f"[[status-times 400 1 {tmp_path}/count]] now it works"
    first = vbs.run([line("good"), line("later", once), line("bad", max_tokens=-1)])
    assert first.request_counts.failed == 2
    again = vbs.http.post(f"/batches/{first.id}/retry").json()
    ended = vbs.wait(vbs.retrieve(again["id"]))
    good, _bad = vbs.books(ended, ["later", "bad"])
    assert [one["custom_id"] for one in good] == ["later"]
    refused = vbs.http.post(f"/batches/{vbs.run([line('a')]).id}/retry")
    assert refused.status_code == 409 and "nothing to retry" in refused.json()["error"]["message"]


def test_one_call_submit(vbs):
    body = line("a")
    del body["body"]["model"]
    files = {"file": ("ä.jsonl", json.dumps(body))}
    data = {"model": "scripted", "metadata[team]": "x", "priority": "3"}
    answer = vbs.http.post("/batches", files=files, data=data)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert (made["metadata"], made["priority"]) == ({"team": "x"}, 3)
    good, _ = vbs.books(vbs.wait(vbs.retrieve(made["id"])), ["a"])
    assert good[0]["response"]["body"]["model"] == "scripted"
    assert vbs.client.files.retrieve(made["input_file_id"]).filename == "ä.jsonl"


def test_the_queue_shows_only_our_own(vbs):
    stranger = vbs.open(vbs.other_key)
    batch = vbs.create([line(f"{n}", model="slow") for n in range(3000)])
    vbs.wait(batch, {"in_progress"}, done=1)
    ours = vbs.http.get("/queue").json()
    assert [one["id"] for one in ours["running"]] == [batch.id] and ours["loaded_model"] == "slow"
    theirs = stranger.get("/queue", cast_to=dict[str, object])
    assert [one["id"] for one in theirs["running"]] == [None] and theirs["running"][0]["models"] == []
    vbs.client.batches.cancel(batch.id)


def test_pages_of_batches_cover_everything_once(vbs):
    made = {vbs.create([line("a")]).id for _ in range(5)}
    seen = [one.id for one in vbs.client.batches.list(limit=2)]
    assert made <= set(seen) and len(seen) == len(set(seen))
    for query in ("limit=0", "limit=101", "limit=-1", "limit=1e3", "after=batch_nope", "after=%00", "order=up"):
        answer = vbs.http.get(f"/batches?{query}")
        assert answer.status_code == 400 and set(answer.json()["error"]) == {"message", "type", "param", "code"}, query


def test_output_expires_after(vbs):
    batch = vbs.run([line("a")], extra_body={"output_expires_after": {"anchor": "created_at", "seconds": 3600}})
    file = vbs.client.files.retrieve(batch.output_file_id)
    assert file.expires_at - file.created_at == 3600 and file.purpose == "batch_output"
