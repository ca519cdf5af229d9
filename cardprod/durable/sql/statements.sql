-- Every statement on durable waits, by name. None relies on a session: all of it works through PgBouncer in
-- transaction mode. `procrastinate_jobs` is procrastinate's; a job is planned by inserting a row, whose queueing lock
-- lets each chunk have one of each task.

-- name: now
SELECT extract(epoch FROM clock_timestamp())::float8 AS now

-- --- Batches ---

-- name: add_batch
INSERT INTO batches (id, token_name, token, base_url) VALUES (%(id)s, %(token_name)s, %(token)s, %(base_url)s)

-- name: add_chunk
WITH batch AS (UPDATE batches SET touched_at = now() WHERE id = %(batch_id)s),
chunk AS (
    INSERT INTO chunks (batch_id, checkpoint, due_at, deadline_at, total, pending)
    VALUES (%(batch_id)s, %(checkpoint)s, now(), to_timestamp(%(deadline_at)s), %(total)s, %(total)s)
    RETURNING id
),
card AS (
    INSERT INTO cards (batch_id, profile_id, card_token, chunk_id)
    SELECT %(batch_id)s, card.profile_id, card.card_token, chunk.id
    FROM chunk, unnest(%(profile_ids)s::bigint[], %(card_tokens)s::text[]) AS card (profile_id, card_token)
)
SELECT id FROM chunk

-- name: complete_batch
UPDATE batches SET submitted_at = now(), finished_at = CASE WHEN %(is_empty)s THEN now() END WHERE id = %(id)s

-- name: drop_batch
DELETE FROM batches WHERE id = %(id)s AND submitted_at IS NULL

-- name: batch_status
SELECT batch.id::text AS id, token_name, base_url, created_at, cancelled_at,
       batch.finished_at, refused_at AS token_refused_at, sums.*,
       (SELECT count(*) FROM workers WHERE NOT has_left AND seen_at > now() - %(lifetime)s * interval '1 second'
           AND requests ? batch.token) AS workers
FROM batches batch
LEFT JOIN tokens USING (token),
LATERAL (
    SELECT coalesce(sum(total), 0)::int8 AS total, coalesce(sum(pending), 0)::int8 AS pending,
           coalesce(sum(produced), 0)::int8 AS produced, coalesce(sum(failed), 0)::int8 AS failed,
           coalesce(sum(errors), 0)::int8 AS errors, coalesce(sum(polls), 0)::int8 AS polls
    FROM chunks WHERE batch_id = batch.id
) sums
WHERE batch.id = %(id)s AND submitted_at IS NOT NULL

-- name: results
SELECT profile_id, card_token, outcome FROM cards
WHERE batch_id = %(id)s AND (profile_id, card_token) > (%(profile_id)s, %(card_token)s::text COLLATE "C")
    AND outcome IS NOT NULL
ORDER BY profile_id, card_token LIMIT %(most)s

-- name: cancel_chunks
-- Every transaction locks chunks in the order of their ids, before anything else of them, and batches last: in another
-- order each of two could wait for the other.
WITH locked AS (SELECT id FROM chunks WHERE batch_id = %(id)s AND finished_at IS NULL ORDER BY id FOR UPDATE),
ended AS (
    UPDATE chunks SET version = version + 1, finished_at = now()
    WHERE id IN (SELECT id FROM locked) RETURNING id, batch_id
),
undelivered AS (DELETE FROM transitions WHERE chunk_id IN (SELECT id FROM ended))
DELETE FROM procrastinate_jobs
WHERE status = 'todo' AND queueing_lock IN (
    SELECT task || batch_id || ':' || id FROM ended, unnest(ARRAY['cardprod:', 'cardprod:deliver:']) task
)

-- name: cancel_batch
UPDATE batches SET cancelled_at = now(), finished_at = now()
WHERE id = %(id)s AND finished_at IS NULL AND submitted_at IS NOT NULL RETURNING id

-- --- Chunks ---

-- name: chunks
SELECT chunk.id, batch_id::text AS batch_id, token_name, batch.token, version, checkpoint, refused_at IS NOT NULL AS is_refused,
       coalesce(extract(epoch FROM paused_until - now()), 0)::float8 AS paused_for
FROM chunks chunk
JOIN batches batch ON batch.id = batch_id
LEFT JOIN tokens USING (token)
WHERE chunk.id = ANY (%(ids)s::bigint[]) AND chunk.finished_at IS NULL AND batch.submitted_at IS NOT NULL
ORDER BY chunk.id

-- name: lock_chunks
SELECT FROM chunks WHERE id = ANY (%(ids)s::bigint[]) AND finished_at IS NULL ORDER BY id FOR UPDATE

-- name: lock_free_chunk
SELECT id FROM chunks WHERE id = %(id)s AND finished_at IS NULL FOR UPDATE SKIP LOCKED

-- name: lock_batch_of_chunk
SELECT batch.id::text AS id
FROM chunks chunk
JOIN batches batch ON batch.id = batch_id
WHERE chunk.id = %(id)s AND chunk.finished_at IS NULL AND submitted_at IS NOT NULL
FOR UPDATE OF chunk

-- name: chunks_of_events
SELECT DISTINCT chunk_id
FROM unnest(%(profile_ids)s::bigint[], %(card_tokens)s::text[]) AS one (profile_id, card_token)
JOIN cards USING (profile_id, card_token)
WHERE outcome IS NULL

-- name: write_chunks
UPDATE chunks SET
    version = chunks.version + 1,
    checkpoint = new.checkpoint,
    due_at = to_timestamp(new.due_at),
    deadline_at = to_timestamp(new.deadline_at),
    pending = new.pending,
    produced = chunks.produced + new.produced,
    failed = chunks.failed + new.failed,
    errors = chunks.errors + new.errors,
    polls = chunks.polls + new.polls
FROM unnest(
    %(id)s::bigint[], %(version)s::bigint[], %(checkpoint)s::text[], %(due_at)s::float8[], %(deadline_at)s::float8[],
    %(pending)s::int[], %(produced)s::int[], %(failed)s::int[], %(errors)s::int[], %(polls)s::int[]
) AS new (id, version, checkpoint, due_at, deadline_at, pending, produced, failed, errors, polls)
WHERE chunks.id = new.id AND chunks.version = new.version AND chunks.finished_at IS NULL
RETURNING chunks.id

-- name: write_outcomes
UPDATE cards SET outcome = ended.outcome
FROM unnest(%(batch_id)s::uuid[], %(profile_id)s::bigint[], %(card_token)s::text[], %(outcome)s::text[])
    AS ended (batch_id, profile_id, card_token, outcome)
WHERE cards.batch_id = ended.batch_id
    AND cards.profile_id = ended.profile_id AND cards.card_token = ended.card_token

-- name: finish_chunk
UPDATE chunks SET version = version + 1, finished_at = now()
WHERE id = %(id)s AND finished_at IS NULL AND pending = 0
    AND NOT EXISTS (SELECT FROM transitions WHERE chunk_id = %(id)s)
RETURNING batch_id

-- name: lock_batch
-- Of two that finish the last two chunks, the second sees what the first did. FOR UPDATE would be a deadlock: to write and
-- to finish a chunk in one transaction has PostgreSQL check its batch, and so hold it, in both.
SELECT FROM batches WHERE id = %(id)s FOR NO KEY UPDATE

-- name: finish_batch
UPDATE batches SET finished_at = now()
WHERE id = %(id)s AND finished_at IS NULL
    AND NOT EXISTS (SELECT FROM chunks WHERE batch_id = %(id)s AND finished_at IS NULL)

-- name: plan_sweeps
-- A job that has the chunk's queueing lock is this one, whatever it was before. The lock's name has the batch's id, which
-- a role that may only enqueue cannot guess: it could hold it in a transaction that it never ends.
INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock, args, scheduled_at)
SELECT 'cardprod-' || token, 'cardprod.sweep', 'cardprod:' || batch_id || ':' || chunk.id,
       jsonb_build_object('chunk_id', chunk.id, 'attempts', %(attempts)s::int), to_timestamp(at)
FROM unnest(%(id)s::bigint[], %(at)s::float8[]) AS one (id, at)
JOIN chunks chunk USING (id)
JOIN batches batch ON batch.id = batch_id
WHERE chunk.finished_at IS NULL
ORDER BY chunk.id
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO UPDATE SET
    queue_name = excluded.queue_name, task_name = excluded.task_name, args = excluded.args, lock = NULL, priority = 0,
    scheduled_at = excluded.scheduled_at

-- --- Transitions ---

-- name: add_transitions
INSERT INTO transitions (chunk_id, key, body)
SELECT one.chunk_id, one.key, one.body
FROM unnest(%(chunk_id)s::bigint[], %(key)s::text[], %(body)s::text[]) WITH ORDINALITY
    AS one (chunk_id, key, body, number)
ORDER BY number

-- name: plan_deliveries
-- Of one chunk, one delivery runs at a time: its jobs have a lock. One that waits because the sink failed is not
-- hurried by new transitions.
INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock, lock, args, scheduled_at)
SELECT 'cardprod-deliver-' || token, 'cardprod.deliver', name, name,
       jsonb_build_object('chunk_id', chunk.id, 'attempts', %(attempts)s::int), coalesce(to_timestamp(at), now())
FROM unnest(%(id)s::bigint[], %(at)s::float8[]) AS one (id, at)
JOIN chunks chunk USING (id)
JOIN batches batch ON batch.id = batch_id,
LATERAL (SELECT 'cardprod:deliver:' || batch_id || ':' || chunk.id AS name) lock
WHERE chunk.finished_at IS NULL
ORDER BY chunk.id
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO UPDATE SET
    queue_name = excluded.queue_name, task_name = excluded.task_name, args = excluded.args, lock = excluded.lock,
    priority = 0, scheduled_at = greatest(excluded.scheduled_at, least(
        procrastinate_jobs.scheduled_at, now() + interval '60 seconds'
    ))

-- name: undelivered
SELECT id, key, body FROM transitions WHERE chunk_id = %(chunk_id)s ORDER BY id LIMIT %(most)s

-- name: drop_delivered
DELETE FROM transitions WHERE id = ANY (%(ids)s::bigint[])

-- --- Events ---

-- name: add_events
INSERT INTO events (body, is_news)
SELECT body, is_news FROM unnest(%(bodies)s::text[], %(are_news)s::boolean[]) WITH ORDINALITY AS one (body, is_news, number)
ORDER BY number

-- name: events_since
-- By time and not by id: a transaction with a lower id may be committed later.
SELECT id, body, is_news FROM events
WHERE came_at > now() - %(seconds)s * interval '1 second' AND NOT id = ANY (%(known)s::bigint[])
ORDER BY id LIMIT %(most)s

-- --- Workers ---

-- name: update_worker
INSERT INTO workers (id, requests, has_left) VALUES (%(id)s, %(requests)s::text::jsonb, %(has_left)s)
ON CONFLICT (id) DO UPDATE SET seen_at = now(), requests = excluded.requests, has_left = excluded.has_left

-- name: other_workers
SELECT * FROM (
    SELECT requests, greatest(extract(epoch FROM now() - seen_at), 0)::float8 AS age,
           NOT has_left AND seen_at > now() - %(lifetime)s * interval '1 second' AS is_at_work
    FROM workers WHERE id <> %(id)s
) one
WHERE is_at_work OR age < 60

-- name: tokens_without_worker
SELECT DISTINCT token_name, base_url
FROM batches
WHERE finished_at IS NULL AND submitted_at IS NOT NULL AND NOT EXISTS (
    SELECT FROM workers WHERE NOT has_left AND seen_at > now() - %(lifetime)s * interval '1 second' AND requests ? token
)

-- name: pause_tokens
INSERT INTO tokens (token, paused_until)
SELECT token, now() + %(seconds)s * interval '1 second' FROM unnest(%(tokens)s::text[]) token
ON CONFLICT (token) DO UPDATE SET paused_until = greatest(tokens.paused_until, excluded.paused_until)

-- name: paused_tokens
SELECT token, extract(epoch FROM paused_until - now())::float8 AS seconds FROM tokens WHERE paused_until > now()

-- name: refuse_tokens
INSERT INTO tokens (token, refused_at) SELECT token, now() FROM unnest(%(tokens)s::text[]) token
ON CONFLICT (token) DO UPDATE SET refused_at = coalesce(tokens.refused_at, excluded.refused_at)

-- name: accept_tokens
UPDATE tokens SET refused_at = NULL WHERE token = ANY (%(tokens)s::text[]) AND refused_at IS NOT NULL

-- --- Recovery ---

-- name: delete_stalled_jobs
-- Jobs whose worker is dead, and those under way for longer than any should be: the database went away just when they
-- were given out, or somebody else put them there. And those of others that have the lock of a delivery.
DELETE FROM procrastinate_jobs job
WHERE status = 'doing' AND task_name IN ('cardprod.sweep', 'cardprod.deliver') AND (
    worker_id IS NULL
    OR EXISTS (
        SELECT FROM procrastinate_workers
        WHERE id = worker_id AND last_heartbeat < now() - %(heartbeat)s * interval '1 second'
    )
    OR coalesce((
        SELECT max(at) FROM procrastinate_events WHERE job_id = job.id AND type = 'started'
    ), '-infinity') < now() - %(longest)s * interval '1 second'
)
OR lock LIKE 'cardprod:deliver:%%' AND (task_name <> 'cardprod.deliver' OR queueing_lock IS DISTINCT FROM lock)

-- name: jobs_of_workers
SELECT id FROM procrastinate_jobs WHERE status = 'doing' AND worker_id = ANY (%(workers)s::bigint[])

-- name: delete_jobs
DELETE FROM procrastinate_jobs WHERE status = 'doing' AND id = ANY (%(ids)s::bigint[])

-- name: chunks_without_sweep
SELECT chunk.id, batch_id::text AS batch_id
FROM chunks chunk JOIN batches batch ON batch.id = batch_id
WHERE chunk.finished_at IS NULL AND pending > 0 AND submitted_at IS NOT NULL
    AND due_at < now() - %(slack)s * interval '1 second'
    AND NOT EXISTS (
        SELECT FROM procrastinate_jobs job
        WHERE queueing_lock = 'cardprod:' || batch.id || ':' || chunk.id AND task_name = 'cardprod.sweep'
            AND queue_name = 'cardprod-' || batch.token AND args ->> 'chunk_id' = chunk.id::text AND lock IS NULL
            AND priority = 0 AND (status = 'doing' OR status = 'todo' AND coalesce(scheduled_at, now()) <= now() + interval '60 seconds')
    )
ORDER BY due_at LIMIT %(most)s

-- name: chunks_without_delivery
SELECT chunk.id, batch_id::text AS batch_id
FROM chunks chunk JOIN batches batch ON batch.id = batch_id
WHERE chunk.finished_at IS NULL AND submitted_at IS NOT NULL
    AND chunk.id IN (
        SELECT chunk_id FROM transitions WHERE seen_at < now() - %(slack)s * interval '1 second'
        UNION
        SELECT id FROM chunks WHERE finished_at IS NULL AND pending = 0
            AND due_at < now() - %(slack)s * interval '1 second'
    )
    AND NOT EXISTS (
        SELECT FROM procrastinate_jobs job
        WHERE queueing_lock = 'cardprod:deliver:' || batch.id || ':' || chunk.id AND task_name = 'cardprod.deliver'
            AND queue_name = 'cardprod-deliver-' || batch.token AND args ->> 'chunk_id' = chunk.id::text
            AND lock = queueing_lock AND priority = 0
            AND (status = 'doing' OR status = 'todo' AND coalesce(scheduled_at, now()) <= now() + interval '90 seconds')
    )
ORDER BY chunk.id LIMIT %(most)s

-- name: overdue_chunks
SELECT chunk.id
FROM chunks chunk JOIN batches batch ON batch.id = batch_id
WHERE chunk.finished_at IS NULL AND submitted_at IS NOT NULL
    AND deadline_at < now() - CASE WHEN token = ANY (%(refused)s::text[]) THEN 0 ELSE %(slack)s END * interval '1 second'
    AND (token = ANY (%(refused)s::text[]) OR NOT EXISTS (
        SELECT FROM procrastinate_jobs
        WHERE queueing_lock = 'cardprod:' || batch.id || ':' || chunk.id AND status = 'doing'
    ))
ORDER BY deadline_at LIMIT %(most)s

-- --- Clearing up: each statement removes a bounded number of rows ---

-- name: old_batch
SELECT id FROM batches
WHERE finished_at < now() - %(keep)s * interval '1 second'
    OR submitted_at IS NULL AND touched_at < now() - interval '1 day'
LIMIT 1

-- name: drop_old_cards
DELETE FROM cards WHERE ctid = ANY (ARRAY(SELECT ctid FROM cards WHERE batch_id = %(id)s LIMIT %(most)s)) RETURNING 1

-- name: drop_old_chunks
DELETE FROM chunks WHERE id IN (SELECT id FROM chunks WHERE batch_id = %(id)s LIMIT %(most)s) RETURNING 1

-- name: drop_old_batch
DELETE FROM batches WHERE id = %(id)s

-- name: drop_old_events
DELETE FROM events WHERE id IN (
    SELECT id FROM events WHERE came_at < now() - interval '10 minutes' ORDER BY came_at LIMIT %(most)s
) RETURNING 1

-- name: drop_old_workers
DELETE FROM workers WHERE seen_at < now() - interval '1 hour'

-- --- Checks ---

-- name: schema_state
SELECT current_user::text AS role, has_schema_privilege(nspname, 'USAGE') AS is_usable,
       EXISTS (
           SELECT FROM pg_class WHERE relnamespace = pg_namespace.oid AND relname = 'migrations'
       ) AS has_tables
FROM pg_namespace WHERE nspname = %(schema)s

-- name: untrusted_owners
-- Everything in our schema must be of a role that could do anything here anyway, or of the one that is named.
WITH ours AS (SELECT oid, nspowner FROM pg_namespace WHERE nspname = %(schema)s),
things AS (
    SELECT 'schema ' || %(schema)s AS name, nspowner AS owner FROM ours
    UNION ALL
    SELECT 'table ' || %(schema)s || '.' || relname, relowner FROM pg_class, ours
    WHERE relnamespace = ours.oid AND relkind <> 'i'
    UNION ALL
    SELECT 'function ' || %(schema)s || '.' || proname, proowner FROM pg_proc, ours WHERE pronamespace = ours.oid
    UNION ALL
    SELECT 'type ' || %(schema)s || '.' || typname, typowner FROM pg_type, ours WHERE typnamespace = ours.oid
    UNION ALL
    SELECT 'operator ' || %(schema)s || '.' || oprname, oprowner FROM pg_operator, ours WHERE oprnamespace = ours.oid
)
SELECT name, rolname::text AS owner FROM things JOIN pg_roles ON pg_roles.oid = owner
WHERE NOT (
    rolsuper OR rolname = current_user OR rolname = coalesce(%(owner)s::text, current_user)
    OR owner = (SELECT datdba FROM pg_database WHERE datname = current_database())
)
LIMIT 1

-- name: missing_grants
WITH missing AS (
    SELECT 'USAGE on schema ' || nspname AS one FROM pg_namespace
    WHERE nspname = %(schema)s AND NOT has_schema_privilege(oid, 'USAGE')
    UNION ALL
    SELECT string_agg(privilege, ', ') || ' on ' || nspname || '.' || relname
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace,
        unnest(CASE relkind WHEN 'S' THEN ARRAY['USAGE'] ELSE ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE'] END) privilege
    WHERE nspname = %(schema)s
        AND CASE relkind
            WHEN 'S' THEN NOT has_sequence_privilege(pg_class.oid, privilege)
            WHEN 'r' THEN NOT has_table_privilege(pg_class.oid, privilege)
        END
        AND (relname <> 'migrations' OR privilege = 'SELECT')
    GROUP BY nspname, relname
)
SELECT current_user::text AS role, coalesce((SELECT string_agg(one, ', ' ORDER BY one) FROM missing), '') AS grants
