package bench

// The statements of the bench. Package dataset makes the tables.

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

const sqlVisitRevs = `-- bench.VisitRevs
SELECT id, rev FROM (SELECT id, rev, row_number() OVER (ORDER BY id) - 1 AS n FROM record
  WHERE org_id = $1 AND owner = $2 AND kind = 'visit' AND NOT deleted) v WHERE n % $3::bigint = 0 ORDER BY id LIMIT $4`

const sqlOrg = `-- bench.Org
SELECT org_id FROM directory_org WHERE slug = $1`

const sqlFloorLast = `-- bench.FloorLast
SELECT last_value FROM bench_floor.seq`

const sqlSettings = `-- bench.Settings
SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY($1)`

const sqlStatements = `-- bench.Statements
SELECT left(split_part(query, E'\n', 1), 60), calls, total_exec_time, rows, (wal_bytes / 1e6)::float8
FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT $1`

const sqlResetStatements = `-- bench.ResetStatements
SELECT pg_stat_statements_reset()`

const sqlCommitTable = `-- bench.CommitTable
CREATE TABLE bench_commit (n int)`

const sqlCommit = `-- bench.Commit
INSERT INTO bench_commit VALUES (1)`

const sqlCommittedAt = `-- bench.CommittedAt
SELECT pg_xact_commit_timestamp(xmin) FROM record WHERE org_id = $1 AND id = $2`

const sqlStormVisits = `-- bench.StormVisits
SELECT owner, id FROM record WHERE org_id = $1 AND kind = 'visit' ORDER BY id`
