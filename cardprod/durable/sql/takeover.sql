-- Take over what the first edition stored in `public`, if it is a trusted role's; its jobs are planned anew by recovery.
DO $takeover$
BEGIN
    IF to_regclass('public.cardprod_parts') IS NULL OR to_regclass('public.cardprod_batches') IS NULL
        OR to_regclass('public.cardprod_results') IS NULL OR to_regclass('public.procrastinate_jobs') IS NULL
    THEN
        RETURN;
    END IF;
    IF EXISTS (
        SELECT FROM pg_class JOIN pg_roles owner ON owner.oid = relowner
        WHERE pg_class.oid IN (
                'public.cardprod_parts'::regclass, 'public.cardprod_batches'::regclass,
                'public.cardprod_results'::regclass, 'public.procrastinate_jobs'::regclass
            )
            AND (relkind <> 'r' OR NOT (
                owner.rolname = current_user OR owner.rolsuper
                OR owner.oid = (SELECT datdba FROM pg_database WHERE datname = current_database())
            ))
    ) THEN
        RAISE WARNING 'public.cardprod_parts is of another owner, and not taken over';
        RETURN;
    END IF;
    INSERT INTO batches (id, token_name, token, created_at, submitted_at, cancelled_at, finished_at)
        SELECT id, token_name, replace(lower(token_name), '-', '_'), created_at, created_at, cancelled_at, finished_at
        FROM public.cardprod_batches;
    INSERT INTO chunks (id, batch_id, version, checkpoint, due_at, finished_at, total, pending, produced, failed, errors, polls)
        OVERRIDING SYSTEM VALUE
        SELECT id, batch_id, version, checkpoint, now(), finished_at, total, pending, produced, failed, errors, looks
        FROM public.cardprod_parts;
    PERFORM setval(pg_get_serial_sequence('chunks', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM chunks));
    INSERT INTO cards (batch_id, profile_id, card_token, chunk_id)
        SELECT batch_id, (wait ->> 0)::bigint, wait ->> 1, id
        FROM chunks, jsonb_array_elements(checkpoint::jsonb -> 'pending') wait;
    INSERT INTO cards (batch_id, profile_id, card_token, chunk_id, outcome)
        SELECT batch_id, profile_id, card_token, 0, outcome FROM public.cardprod_results
        ON CONFLICT (batch_id, profile_id, card_token) DO UPDATE SET outcome = excluded.outcome;
    INSERT INTO transitions (chunk_id, key, body)
        SELECT id, batch_id || '.' || id || '.' || version || '.' || number - 1,
               (step || '{"version": 1}'::jsonb)::text
        FROM public.cardprod_parts,
             jsonb_array_elements(undelivered::jsonb -> 'steps') WITH ORDINALITY AS steps (step, number)
        WHERE finished_at IS NULL AND undelivered IS NOT NULL
        ORDER BY id, number;
    DELETE FROM public.procrastinate_jobs WHERE task_name LIKE 'cardprod.%';
    DROP TABLE public.cardprod_results, public.cardprod_parts, public.cardprod_batches;
    DROP TABLE IF EXISTS public.cardprod_workers, public.cardprod_gates, public.cardprod_migrations;
END;
$takeover$;
