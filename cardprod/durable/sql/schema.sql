-- The tables of durable waits, in a schema of their own.

CREATE TABLE batches (  -- what one `submit` stored
    id uuid PRIMARY KEY,
    token_name text NOT NULL,  -- as it was given
    token text NOT NULL,  -- as queues and workers name it
    created_at timestamptz NOT NULL DEFAULT now(),
    touched_at timestamptz NOT NULL DEFAULT now(),  -- when a chunk was last added
    submitted_at timestamptz,  -- when it was complete, and became visible
    cancelled_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX batches_finished ON batches (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX batches_incomplete ON batches (touched_at) WHERE submitted_at IS NULL;

CREATE TABLE chunks (  -- some of a batch's cards, swept together
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id uuid NOT NULL REFERENCES batches ON DELETE CASCADE,
    version bigint NOT NULL DEFAULT 0,
    checkpoint text NOT NULL,
    due_at timestamptz NOT NULL,  -- when its next sweep is planned
    deadline_at timestamptz,  -- the earliest deadline of its cards
    finished_at timestamptz,
    total integer NOT NULL,
    pending integer NOT NULL,
    produced integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    errors integer NOT NULL DEFAULT 0,
    polls bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE INDEX chunks_batch ON chunks (batch_id);
CREATE INDEX chunks_due ON chunks (due_at) WHERE finished_at IS NULL;
CREATE INDEX chunks_deadline ON chunks (deadline_at) WHERE finished_at IS NULL AND deadline_at IS NOT NULL;

CREATE TABLE cards (
    batch_id uuid NOT NULL REFERENCES batches ON DELETE CASCADE,
    profile_id bigint NOT NULL,
    card_token text NOT NULL COLLATE "C",
    chunk_id bigint NOT NULL,
    outcome text,  -- how its wait ended
    PRIMARY KEY (batch_id, profile_id, card_token)
);
CREATE INDEX cards_pending ON cards (card_token, profile_id) WHERE outcome IS NULL;

CREATE TABLE transitions (  -- what was seen and is not delivered yet, in its order
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chunk_id bigint NOT NULL REFERENCES chunks ON DELETE CASCADE,
    key text NOT NULL,
    body text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX transitions_chunk ON transitions (chunk_id, id);
CREATE INDEX transitions_seen ON transitions (seen_at);

CREATE TABLE events (  -- webhook events of late, for every worker's client
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    body text NOT NULL,
    is_news boolean NOT NULL,
    came_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX events_came ON events (came_at);

CREATE TABLE workers (
    id uuid PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE tokens (  -- what workers found out about the tokens of a name
    token text PRIMARY KEY,
    paused_until timestamptz,  -- after a 429
    refused_at timestamptz  -- after a 401
);
