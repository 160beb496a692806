"""A worker that is stopped within a commit keeps neither the API nor its batch for longer than the database allows."""

import time

import psycopg
import pytest

from tests.live import line
from vbs.database import timeouts


@pytest.mark.slow
def test_a_session_that_rests_with_the_lock_of_a_batch(vbs):
    names = [str(number) for number in range(300)]
    batch = vbs.create([line(name, model="slow") for name in names])
    vbs.wait(batch, {"in_progress"}, done=1)
    place = {"host": str(vbs.stack.data / "postgres"), "port": 5432, "user": "postgres", "dbname": "postgres"}
    with psycopg.connect(**place, options=timeouts.OF["worker"].options()) as frozen:
        frozen.execute("SELECT 1 FROM batches_batch WHERE id = %s FOR UPDATE", [batch.id])
        began = time.monotonic()
        refused = vbs.http.post(f"/batches/{batch.id}", json={"priority": 5})
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "unavailable" and time.monotonic() - began < 15
        began = time.monotonic()
        assert vbs.http.get(f"/batches/{batch.id}").status_code == 200 and time.monotonic() - began < 3
        assert vbs.http.get(f"{vbs.stack.url}/ready").status_code == 200
        ended = vbs.wait(batch)
        frozen.close()
    assert ended.status == "completed" and not vbs.books(ended, names)[1]
    assert vbs.http.get(f"/batches/{batch.id}").json()["attempts"] == 1, "its worker waited, and went on"
