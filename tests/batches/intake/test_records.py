"""A record is one line for every reader. No database."""

import json

from hypothesis import example, given
from hypothesis import strategies as st

from batches.finish.outputs import output_line
from batches.intake.records import one_line, record
from batches.intake.tables.cells import Limits
from batches.intake.tables.reading import Reading
from batches.intake.tables.requests import Making, make
from batches.intake.tables.rows import rows
from batches.intake.validate import Report
from batches.models import BatchRequest, RequestState

ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # all that str.splitlines ends a line at
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text()
    | st.text(alphabet=ENDS + '"\\é\u2027\U0001f600'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet=ENDS + "ab"), inner, max_size=4),
    max_leaves=10,
)


def only_line(data):
    (text,) = data.decode().splitlines()
    return json.loads(text)


def test_these_are_all_that_end_a_line():
    assert {chr(code) for code in range(0x110000) if len(f"a{chr(code)}b".splitlines()) > 1} == set(ENDS)


@given(JSON)
@example(ENDS)
def test_a_record_is_one_line_and_says_the_same(value):
    assert only_line(record(value)) == value


@given(JSON, st.sampled_from([None, 1]))
def test_json_of_others_too_however_it_is_laid_out(value, indent):
    for text in (json.dumps(value, ensure_ascii=False, indent=indent), json.dumps(value, indent=indent)):
        assert only_line(one_line(text.replace("\n", "\r\n").encode())) == value


def test_lines_of_output_and_error_files():
    row = BatchRequest(batch_id="batch_1", line=1, custom_id=f"id {ENDS}", state=RequestState.FAILED, status_code=400)
    row.response = json.dumps({"text": f"said {ENDS}"}, ensure_ascii=False, indent=1)
    row.error_code, row.error_message = "code", f"why {ENDS}"
    found = only_line(output_line(row))
    assert found["custom_id"] == row.custom_id and found["error"]["message"] == row.error_message
    assert found["response"]["body"] == {"text": f"said {ENDS}"}


def test_lines_made_of_a_table(tmp_path):
    source, target = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text('prompt\n"one\u2028two\x85three"\n', newline="")
    limits = Limits(2**20, 2**20, 9)
    with source.open("rb") as table, target.open("wb") as lines:
        read = rows(table, Reading("csv"), limits)
        make(read, Making("/v1/completions", "m"), lines, Report(), limits)
    found = only_line(target.read_bytes().removeprefix(b"\n"))  # the header's line is blank
    assert found["row"]["prompt"] == found["body"]["prompt"] == "one\u2028two\x85three"
