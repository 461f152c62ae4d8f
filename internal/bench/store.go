package bench

// The statements of the laboratory. The floor's table lies in a schema of its own, in the same database.

const sqlFloorTable = `-- bench.FloorTable
CREATE SCHEMA bench_floor;
CREATE TABLE bench_floor.visit (
    id       uuid   PRIMARY KEY,
    owner    uuid   NOT NULL,
    team     uuid   NOT NULL,
    seq      bigint NOT NULL,
    event_ms bigint NOT NULL,
    data     jsonb  NOT NULL
);
CREATE SEQUENCE bench_floor.seq`

// Made after the COPY: pk and two more.
const sqlFloorIndexes = `-- bench.FloorIndexes
CREATE INDEX visit_owner ON bench_floor.visit (owner, seq);
CREATE INDEX visit_team ON bench_floor.visit (team, seq);
SELECT setval('bench_floor.seq', (SELECT max(seq) FROM bench_floor.visit))`

const sqlFloorPush = `-- bench.FloorPush
INSERT INTO bench_floor.visit (id, owner, team, seq, event_ms, data)
SELECT u.id, u.owner, u.team, nextval('bench_floor.seq'), u.event_ms, u.data::jsonb
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[]) AS u(id, owner, team, event_ms, data)`

const sqlFloorPull = `-- bench.FloorPull
SELECT id, owner, seq, event_ms, data::text FROM bench_floor.visit WHERE team = $1 AND seq > $2 ORDER BY seq`

const sqlFloorTouch = `-- bench.FloorTouch
UPDATE bench_floor.visit v SET seq = nextval('bench_floor.seq'), data = v.data || jsonb_build_object('subject', $2::text)
WHERE id = ANY($1)`

const sqlVisitsOf = `-- bench.VisitsOf
SELECT id FROM record WHERE org_id = $1 AND owner = $2 AND kind = 'visit' AND rev = 1 AND NOT deleted ORDER BY id LIMIT $3`

const sqlFloorVisitsOf = `-- bench.FloorVisitsOf
SELECT id FROM bench_floor.visit WHERE owner = $1 ORDER BY seq LIMIT $2`

const sqlOrg = `-- bench.Org
SELECT org_id FROM directory_org WHERE slug = $1`

const sqlFloorLast = `-- bench.FloorLast
SELECT last_value FROM bench_floor.seq`

// What the loader reads of what is there before it.

const sqlStart = `-- bench.Start
SELECT seq, rights, buckets FROM org_clock WHERE org_id = $1`

const sqlKnownBuckets = `-- bench.KnownBuckets
SELECT stem, month, num FROM bucket_name WHERE org_id = $1`

const sqlFinishClock = `-- bench.FinishClock
UPDATE org_clock SET seq = $2, buckets = $3 WHERE org_id = $1`

// COPY cannot add to the counts of buckets that the directory filled.
const sqlAddBuckets = `-- bench.AddBuckets
INSERT INTO bucket (org_id, num, kind, last_seq, count, sum)
SELECT $1, u.num, u.kind, u.last_seq, u.count, u.sum
FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[]) AS u(num, kind, last_seq, count, sum)
ON CONFLICT (org_id, num, kind) DO UPDATE
SET last_seq = excluded.last_seq, count = bucket.count + excluded.count, sum = bucket.sum + excluded.sum`

const sqlSettings = `-- bench.Settings
SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY($1)`

const sqlStatements = `-- bench.Statements
SELECT left(split_part(query, E'\n', 1), 60), calls, total_exec_time, rows, (wal_bytes / 1e6)::float8
FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT $1`

const sqlResetStatements = `-- bench.ResetStatements
SELECT pg_stat_statements_reset()`
