"""A database that has been in use for years: batches of several projects, their requests and what became of them.

By SQL alone, without the triggers that tell browsers: nobody looks yet. The same rows for the same sizes.
"""

from typing import LiteralString

import psycopg

PROJECTS = 5
SECONDS_APART = 300  # between two batches: 100,000 are a year
LIVE = 20  # the newest, which wait; the workers must not take them up, so they have no validated_at

_PROJECTS: LiteralString = """
INSERT INTO accounts_project (name) SELECT 'seeded ' || n FROM generate_series(1, %(projects)s) n
"""

# Of 100 batches 90 are completed, 4 failed, 3 expired and 3 cancelled. `rare` is a model of one batch in 10,000, of
# the oldest only; nine of ten ask for `common`. Half of all batches are the first project's, the last has few.
_BATCHES: LiteralString = """
INSERT INTO batches_batch (
    id, project_id, input_file_id_given, endpoint, completion_window, metadata, priority, default_model, created_by,
    status, outcome, hidden, model_names, resolved, total, completed, failed, not_run, unlimited, input_tokens,
    cached_tokens, output_tokens, reasoning_tokens, tokens_per_second, created_at, expires_at, validated_at,
    in_progress_at, finalizing_at, completed_at, failed_at, expired_at, cancelled_at, attempts, stumbles
)
SELECT
    'batch_' || lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || substr(md5(n::text), 1, 20),
    (SELECT min(id) FROM accounts_project WHERE name LIKE 'seeded %%') + CASE
        WHEN n %% 2 = 0 THEN 0 WHEN n %% 1000 = 1 THEN %(projects)s - 1 ELSE (n / 2) %% (%(projects)s - 1) END,
    'file-' || lpad(to_hex(n), 12, '0') || substr(md5(n::text), 1, 20), '/v1/chat/completions', '24h',
    jsonb_build_object(
        'team', (ARRAY['search', 'ads', 'support', 'research'])[1 + n %% 4], 'run', 'run-' || n,
        'description', 'nightly evaluation of the answers', 'dataset', 'dataset-' || n %% 500),
    CASE WHEN n %% 20 = 0 THEN 5 ELSE 0 END, '', '',
    status, CASE WHEN status IN ('validating', 'failed') THEN '' ELSE status END, false,
    jsonb_build_array(CASE
        WHEN n < %(batches)s / 2 AND n %% 10000 = 7 THEN 'rare'
        WHEN n %% 10 = 0 THEN 'sometimes-' || n %% 7 ELSE 'common' END),
    '[]', total, CASE WHEN status IN ('validating', 'failed') THEN 0 ELSE total - total / 20 END,
    CASE WHEN status IN ('validating', 'failed') THEN 0 ELSE total / 20 END, 0, 0,
    total * 120, 0, total * 80, 0, 900, at, at + interval '1 day',
    CASE WHEN status IN ('validating', 'failed') THEN NULL ELSE at + interval '1 second' END,
    CASE WHEN status IN ('validating', 'failed') THEN NULL ELSE at + interval '2 seconds' END,
    CASE WHEN status IN ('validating', 'failed') THEN NULL ELSE at + interval '3 minutes' END,
    CASE status WHEN 'completed' THEN at + interval '4 minutes' END,
    CASE status WHEN 'failed' THEN at + interval '1 second' END,
    CASE status WHEN 'expired' THEN at + interval '4 minutes' END,
    CASE status WHEN 'cancelled' THEN at + interval '4 minutes' END,
    CASE WHEN status IN ('validating', 'failed') THEN 0 ELSE 1 END, 0
FROM (
    SELECT n, now() - (%(batches)s - n) * %(apart)s * interval '1 second' AS at, %(each)s AS total, CASE
        WHEN n > %(batches)s - %(live)s THEN 'validating'
        WHEN n %% 100 < 4 THEN 'failed' WHEN n %% 100 < 7 THEN 'expired' WHEN n %% 100 < 10 THEN 'cancelled'
        ELSE 'completed' END AS status
    FROM generate_series(1, %(batches)s) n
) AS batch
"""

_REQUESTS: LiteralString = """
INSERT INTO batches_batchrequest (
    batch_id, line, "offset", length, custom_id, model_index, prefix, state, crashes, status_code, response,
    error_code, error_message, input_tokens, output_tokens, finished_at
)
SELECT batch.id, line, (line - 1) * 800, 799, 'request-' || line, 0, md5(line::text)::uuid,
    CASE WHEN line <= batch.failed THEN 2 ELSE 1 END, 0, CASE WHEN line <= batch.failed THEN 400 ELSE 200 END,
    '{"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": "'
        || repeat('word ', 8) || line || '"}, "finish_reason": "stop"}]}',
    CASE WHEN line <= batch.failed THEN 'bad_request' END, CASE WHEN line <= batch.failed THEN 'It is too long.' END,
    120, 80, batch.finalizing_at
FROM batches_batch batch, generate_series(1, batch.total) line WHERE batch.in_progress_at IS NOT NULL
"""

_INDEXES: LiteralString = """
INSERT INTO batches_searchindex (batch_id, requests, is_complete)
SELECT id, total, true FROM batches_batch WHERE in_progress_at IS NOT NULL ORDER BY id
"""

# The words of the answers: `word` eight times and the line's number; and a word that one of 1,000 requests has. The
# index of words is built afterwards, in a tenth of the time.
_WORDS: LiteralString = """
INSERT INTO batches_searchedrequest (index_id, line, words)
SELECT one.id, line, format(
    $$'%%1$s:word':1,2,3,4,5,6,7,8 '%%1$s:%%2$s':9 '%%1$s:seldom%%3$s':11$$, one.id, line, line %% 1000)::tsvector
FROM batches_searchindex one JOIN batches_batch batch ON batch.id = one.batch_id, generate_series(1, batch.total) line
"""
_BEFORE: LiteralString = "DROP INDEX search_words"
_AFTER: LiteralString = """
SET LOCAL maintenance_work_mem TO '1GB';
CREATE INDEX search_words ON batches_searchedrequest USING gin (words) WITH (gin_pending_list_limit = 1024)
"""

_LARGE: LiteralString = """
UPDATE batches_batch SET total = %(large)s, completed = %(large)s - %(large)s / 20, failed = %(large)s / 20
WHERE id = (SELECT max(id) FROM batches_batch WHERE status = 'completed')
"""

_ACTIVITY: LiteralString = """
INSERT INTO batches_activity (batch_id, at, completed, failed, input_tokens, output_tokens)
SELECT id, to_timestamp(2 * floor(extract(epoch FROM in_progress_at) / 2)) + place * interval '2 seconds',
    completed / 5, failed / 5, input_tokens / 5, output_tokens / 5
FROM batches_batch, generate_series(0, 4) place WHERE in_progress_at IS NOT NULL
"""

_EVENTS: LiteralString = """
INSERT INTO batches_batchevent (batch_id, at, level, message)
SELECT id, created_at + place * interval '1 second', 'info', 'Event ' || place
FROM batches_batch, generate_series(1, 3) place
"""


def seed(database: "psycopg.Connection[object]", batches: int, requests: int) -> None:
    """requests: about how many in all; a fiftieth of them are those of one batch."""
    given = {
        "projects": PROJECTS,
        "batches": batches,
        "apart": SECONDS_APART,
        "live": LIVE,
        "large": requests // 50,
        "each": max(1, round(requests * 0.98 / (batches * 0.96))),
    }
    with database.transaction():
        database.execute("SET LOCAL session_replication_role = replica")  # neither triggers nor foreign keys
        for statement in (_PROJECTS, _BATCHES, _LARGE, _REQUESTS, _INDEXES, _ACTIVITY, _EVENTS):
            database.execute(statement, given)
        database.execute(_BEFORE)
        database.execute(_WORDS, given)
        database.execute(_AFTER)
    database.execute("VACUUM ANALYZE")
