//! The two statements of which nearly all batches are one.
//!
//! Every part takes its rows together with the fence's (`held`), so without the fence nothing
//! is written, and the fence's lock is held to the end. The parts see the same state and come
//! in no order, so no two of them may touch the same row.

/// What nearly every batch is made of: tasks accepted, and tasks that ended.
///
/// Columns stand in the list of what a query selects, where `unnest` hands them out row by
/// row; in `FROM` each would be a table of its own first. They go on in step until the
/// longest ends, and give nulls behind their own end.
macro_rules! accepted_and_ended {
    () => {
        "WITH held AS MATERIALIZED \
        (SELECT boot FROM life WHERE boot = $1 AND session = $2 AND NOT ended FOR KEY SHARE), \
        accepted AS (INSERT INTO task \
         (seq, id, kind, payload, goal, priority, class, tenant, idempotency_key, parent, \
          depends_on, max_attempts, submitted_at, deadline, terms, log) \
         SELECT seq, id, COALESCE(kind, $3), payload, goal, COALESCE(priority, $4), \
          COALESCE(class, $5), COALESCE(tenant, $6), idempotency_key, parent, \
          COALESCE(depends_on, ''), COALESCE(max_attempts, $7), COALESCE(submitted_at, $8), \
          deadline, terms, log \
         FROM held, (SELECT unnest($9::bigint[]) AS seq, unnest($10::uuid[]) AS id, \
          unnest($11::text[]) AS kind, unnest($12::text[]) AS payload, \
          unnest($13::text[]) AS goal, unnest($14::text[]) AS priority, \
          unnest($15::text[]) AS class, unnest($16::text[]) AS tenant, \
          unnest($17::text[]) AS idempotency_key, unnest($18::uuid[]) AS parent, \
          unnest($19::text[]) AS depends_on, unnest($20::bigint[]) AS max_attempts, \
          unnest($21::bigint[]) AS submitted_at, unnest($22::bigint[]) AS deadline, \
          unnest($23::text[]) AS terms, unnest($24::text[]) AS log) AS new), \
        fresh AS (INSERT INTO task_run \
         (owner, seq, state, attempt, losses, epoch, run_at, cancel_requested, events, retries) \
         SELECT boot, seq, 'available', 0, 0, 0, COALESCE(run_at, $25), false, \
          COALESCE(events, $26), 0 \
         FROM held, (SELECT unnest($27::bigint[]) AS seq, unnest($28::bigint[]) AS run_at, \
          unnest($29::bigint[]) AS events) AS new), \
        ends AS (INSERT INTO task_end \
         (seq, state, finished_at, attempt, losses, epoch, result, error, events, log) \
         SELECT seq, COALESCE(state, $30), COALESCE(finished_at, $31), COALESCE(attempt, $32), \
          COALESCE(losses, $33), epoch, result, error, COALESCE(events, $34), log \
         FROM held, (SELECT unnest($35::bigint[]) AS seq, unnest($36::text[]) AS state, \
          unnest($37::bigint[]) AS finished_at, unnest($38::bigint[]) AS attempt, \
          unnest($39::bigint[]) AS losses, unnest($40::bigint[]) AS epoch, \
          unnest($41::text[]) AS result, unnest($42::text[]) AS error, \
          unnest($43::bigint[]) AS events, unnest($44::text[]) AS log) AS new), \
        ended AS (DELETE FROM task_run r USING held WHERE r.seq = ANY($35::bigint[]))"
    };
}

pub(in super::super) const ACCEPTED_AND_ENDED: &str =
    concat!(accepted_and_ended!(), " SELECT count(*) FROM held");

/// Everything that a batch may consist of but large documents, ledgers and orders.
///
/// A task goes to another node's life if that can be locked and lives on, else it stays with
/// this one; either way there is a note of it, see `super::super::hand_over`.
pub(in super::super) const ROWS: &str = concat!(
    accepted_and_ended!(),
    ", dependencies AS (INSERT INTO task_dependency (dependency, seq) \
     SELECT new.* FROM held, unnest($45::uuid[], $46::bigint[]) AS new), \
    standing AS (INSERT INTO task_run \
     (owner, seq, state, attempt, losses, epoch, run_at, lease_until, worker, \
      cancel_requested, last_error, events, retries) \
     SELECT held.boot, new.* FROM held, unnest($47::bigint[], $48::text[], $49::bigint[], \
      $50::bigint[], $51::bigint[], $52::bigint[], $53::bigint[], $54::text[], $55::boolean[], \
      $56::text[], $57::bigint[], $58::bigint[]) AS new \
     ON CONFLICT (seq) DO UPDATE SET owner = excluded.owner, state = excluded.state, \
      attempt = excluded.attempt, losses = excluded.losses, epoch = excluded.epoch, \
      run_at = excluded.run_at, lease_until = excluded.lease_until, worker = excluded.worker, \
      cancel_requested = excluded.cancel_requested, last_error = excluded.last_error, \
      events = excluded.events, retries = excluded.retries), \
    lines AS (INSERT INTO task_event (seq, n, at, kind, epoch, detail) \
     SELECT new.* FROM held, unnest($59::bigint[], $60::bigint[], $61::bigint[], $62::text[], \
      $63::bigint[], $64::text[]) AS new), \
    steps AS (INSERT INTO step (seq, digest, key, input, output, epoch, started_at, finished_at, \
      cost, input_blob, output_blob) \
     SELECT new.seq, sha256(convert_to(new.key, 'UTF8')), new.key, new.input, new.output, \
      new.epoch, new.started_at, new.finished_at, new.cost, new.input_blob, new.output_blob \
     FROM held, unnest($65::bigint[], $66::text[], $67::text[], $68::text[], $69::bigint[], \
      $70::bigint[], $71::bigint[], $72::text[], $73::text[], $74::text[]) AS new \
      (seq, key, input, output, epoch, started_at, finished_at, cost, input_blob, output_blob) \
     ON CONFLICT (seq, digest) DO NOTHING), \
    taken AS (DELETE FROM handed h USING held WHERE h.seq = ANY($75::bigint[])), \
    taker AS (SELECT boot FROM life WHERE boot = ANY($77::bigint[]) AND NOT ended \
      AND clock_timestamp() < lease_until \
     FOR KEY SHARE SKIP LOCKED), \
    move AS MATERIALIZED (SELECT m.seq, COALESCE(taker.boot, held.boot) AS to_life, m.after \
     FROM held, unnest($76::bigint[], $77::bigint[], $78::bigint[]) AS m (seq, to_life, after) \
     LEFT JOIN taker ON taker.boot = m.to_life), \
    moved AS (UPDATE task_run r SET owner = move.to_life FROM move WHERE r.seq = move.seq), \
    noted AS (INSERT INTO handed (seq, to_life, after) SELECT seq, to_life, after FROM move) \
    SELECT count(*) FROM held"
);
