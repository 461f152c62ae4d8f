package dataset

// The statements of the loader. The floor's table lies in a schema of its own, in the same database.

const sqlFloorTable = `-- dataset.FloorTable
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
const sqlFloorIndexes = `-- dataset.FloorIndexes
CREATE INDEX visit_owner ON bench_floor.visit (owner, seq);
CREATE INDEX visit_team ON bench_floor.visit (team, seq);
SELECT setval('bench_floor.seq', (SELECT max(seq) FROM bench_floor.visit))`

// What the loader reads of what is there before it.

const sqlStart = `-- dataset.Start
SELECT seq, rights, buckets FROM org_clock WHERE org_id = $1`

const sqlKnownBuckets = `-- dataset.KnownBuckets
SELECT stem, month, num FROM bucket_name WHERE org_id = $1`

const sqlFinishClock = `-- dataset.FinishClock
UPDATE org_clock SET seq = $2, buckets = $3 WHERE org_id = $1`

// COPY cannot add to the counts of buckets that the directory filled.
const sqlAddBuckets = `-- dataset.AddBuckets
INSERT INTO bucket (org_id, num, kind, last_seq, count, sum)
SELECT $1, u.num, u.kind, u.last_seq, u.count, u.sum
FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[]) AS u(num, kind, last_seq, count, sum)
ON CONFLICT (org_id, num, kind) DO UPDATE
SET last_seq = excluded.last_seq, count = bucket.count + excluded.count, sum = bucket.sum + excluded.sum`

// The jobs that would mirror people and teams into records; see Org.Unmirrored.
const sqlForgetMirror = `-- dataset.ForgetMirror
DELETE FROM river_job WHERE kind = $1`

const sqlTryLock = `-- dataset.TryLock
SELECT pg_try_advisory_lock($1)`

const sqlWhole = `-- dataset.Whole
SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)`

// What stands in the way of loading a set: an earlier one of its name, and what earlier benches left.
const sqlOutdated = `-- dataset.Outdated
SELECT datname FROM pg_database WHERE starts_with(datname, $1) OR datname = $2 OR datname LIKE 'satchel\_bench\_data\_%'`
