-- What workers share: which tokens each has, and how many requests it sent in the last 10, 20, … 60 seconds.

ALTER TABLE workers
    ADD COLUMN requests jsonb NOT NULL DEFAULT '{}',  -- by the names of batches that it works on
    ADD COLUMN has_left boolean NOT NULL DEFAULT false;
ALTER TABLE batches ADD COLUMN base_url text;  -- the API of its cards, if only workers for that may take it
CREATE INDEX batches_unfinished ON batches (token) WHERE finished_at IS NULL;
