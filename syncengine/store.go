package syncengine

// The statements of the engine, by the step of the flow that sends them. Each fixes one org_id.

const clockColumns = `seq, rights, buckets, schema_version, cursor_key, horizon, cuts`

const sqlClock = `-- syncengine.Clock
SELECT ` + clockColumns + ` FROM org_clock WHERE org_id = $1`

// The clock for a batch of the device $2; it is read behind the lane's lock, which a revocation takes too.
const sqlDeviceClock = `-- syncengine.DeviceClock
SELECT ` + clockColumns + `,
  coalesce((SELECT d.revoked FROM directory_device d WHERE d.org_id = $1 AND d.id = $2), false)
FROM org_clock WHERE org_id = $1`

const sqlHoldLane = `-- syncengine.HoldLane
SELECT 1 FROM lane WHERE org_id = $1 AND device_id = $2 FOR UPDATE`

const sqlNewClock = `-- syncengine.NewClock
INSERT INTO org_clock (org_id, cursor_key) VALUES ($1, $2)`

const sqlRightsChanged = `-- syncengine.RightsChanged
UPDATE org_clock SET rights = rights + 1 WHERE org_id = $1`

const sqlNextSchema = `-- syncengine.NextSchema
UPDATE org_clock SET rights = rights + 1, schema_version = schema_version + 1 WHERE org_id = $1 RETURNING schema_version`

const sqlNewSchema = `-- syncengine.NewSchema
INSERT INTO schema_version (org_id, version, pack, published_at) VALUES ($1, $2, $3, $4)`

const sqlSchema = `-- syncengine.Schema
SELECT s.pack, coalesce((SELECT o.time_zone FROM directory_org o WHERE o.org_id = $1), 'UTC')
FROM schema_version s WHERE s.org_id = $1 AND s.version = $2`

const sqlPeople = `-- syncengine.People
SELECT id, display_name, team_id, roles, disabled FROM directory_person WHERE org_id = $1`

const sqlTeams = `-- syncengine.Teams
SELECT id, parent_id FROM directory_team WHERE org_id = $1`

const sqlTeamNames = `-- syncengine.TeamNames
SELECT id, name, parent_id FROM directory_team WHERE org_id = $1 AND id = ANY($2)`

// Step 1: seen.

const sqlLockLane = `-- syncengine.LockLane
SELECT person_id, next, confirmed, was, coalesce(was_below, 0), successor, last_event
FROM lane WHERE org_id = $1 AND device_id = $2 FOR UPDATE`

// The runs that know of the numbers $4 to $5. They hold at most MaxBatch mutations, so that of $4 begins behind $3.
const sqlRuns = `-- syncengine.Runs
SELECT first, ids, verdicts, seq FROM ledger
WHERE org_id = $1 AND device_id = $2 AND first > $3 AND first <= $5 AND first + cardinality(ids) > $4 ORDER BY first`

const sqlSeenKey = `-- syncengine.SeenKey
SELECT verdict, seq FROM ledger_source WHERE org_id = $1 AND source = $2 AND key = $3`

// Step 2: load.

const recordColumns = `id, kind, rev, data, stamps, buckets, author, owner, parent, parent_owner, event_ms, deleted, root`

const sqlLockRecords = `-- syncengine.LockRecords
SELECT ` + recordColumns + ` FROM record WHERE org_id = $1 AND id = ANY($2) ORDER BY id FOR UPDATE`

const sqlShareRecords = `-- syncengine.ShareRecords
SELECT ` + recordColumns + ` FROM record WHERE org_id = $1 AND id = ANY($2) ORDER BY id FOR SHARE`

const sqlReadRecords = `-- syncengine.ReadRecords
SELECT ` + recordColumns + ` FROM record WHERE org_id = $1 AND id = ANY($2) ORDER BY id`

const sqlRefused = `-- syncengine.Refused
SELECT record_id, attention_id FROM refused WHERE org_id = $1 AND record_id = ANY($2) AND person_id = $3`

const sqlWriters = `-- syncengine.Writers
SELECT device_id, person_id FROM lane WHERE org_id = $1 AND device_id = ANY($2)`

const sqlLeftSince = `-- syncengine.LeftSince
SELECT EXISTS (SELECT 1 FROM head WHERE org_id = $1 AND record_id = $2 AND bucket = ANY($3) AND (present OR seq > $4))`

const sqlChildren = `-- syncengine.Children
SELECT ` + recordColumns + ` FROM record WHERE org_id = $1 AND parent = ANY($2) ORDER BY id LIMIT $3 FOR UPDATE`

// Step 5: write. Joined to the clock so that the form runs inside one shard (design/README.md, Citus).

const sqlInsertRecords = `-- syncengine.InsertRecords
INSERT INTO record (org_id, id, kind, rev, data, stamps, buckets, author, owner, parent, parent_owner, event_ms, schema_version, deleted, root)
SELECT c.org_id, u.id, u.kind, u.rev, u.data::jsonb, u.stamps::jsonb, u.buckets::bigint[], u.author, u.owner, u.parent, u.parent_owner, u.event_ms, $2, u.deleted, u.root
FROM org_clock c, unnest($3::uuid[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::uuid[], $10::uuid[], $11::uuid[], $12::uuid[], $13::bigint[], $14::boolean[], $15::uuid[])
  AS u(id, kind, rev, data, stamps, buckets, author, owner, parent, parent_owner, event_ms, deleted, root)
WHERE c.org_id = $1`

const sqlUpdateRecords = `-- syncengine.UpdateRecords
UPDATE record r SET rev = u.rev, data = u.data::jsonb, stamps = u.stamps::jsonb, buckets = u.buckets::bigint[],
  owner = u.owner, parent = u.parent, parent_owner = u.parent_owner, schema_version = $2, deleted = u.deleted, root = u.root
FROM unnest($3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::uuid[], $9::uuid[], $10::uuid[], $11::boolean[], $12::uuid[])
  AS u(id, rev, data, stamps, buckets, owner, parent, parent_owner, deleted, root)
WHERE r.org_id = $1 AND r.id = u.id`

const sqlMoveRecords = `-- syncengine.MoveRecords
UPDATE record r SET buckets = u.buckets::bigint[], parent_owner = u.parent_owner
FROM unnest($2::uuid[], $3::text[], $4::uuid[]) AS u(id, buckets, parent_owner)
WHERE r.org_id = $1 AND r.id = u.id`

const sqlHistory = `-- syncengine.History
INSERT INTO history (org_id, record_id, id, rev, op, before, lost, actor, device, number, source, cause, event_ms, received_at)
SELECT c.org_id, u.record_id, u.id, u.rev, u.op, u.before::jsonb, u.lost::jsonb, u.actor, $2, u.number, $3, u.cause, u.event_ms, $4
FROM org_clock c, unnest($5::uuid[], $6::uuid[], $7::bigint[], $8::text[], $9::text[], $10::text[], $11::uuid[], $12::bigint[], $13::text[], $14::bigint[])
  AS u(record_id, id, rev, op, before, lost, actor, number, cause, event_ms)
WHERE c.org_id = $1`

// Step 7: number.

const sqlNumber = `-- syncengine.Number
SELECT satchel_number($1, $2)`

// What the planted faults number by.
const sqlNextSeq = `-- syncengine.NextSeq
UPDATE org_clock SET seq = seq + 1 WHERE org_id = $1 RETURNING seq`

const sqlHeads = `-- syncengine.Heads
INSERT INTO head (org_id, bucket, record_id, kind, seq, present)
SELECT c.org_id, u.bucket, u.record_id, u.kind, c.seq, u.present
FROM org_clock c, unnest($2::bigint[], $3::uuid[], $4::text[], $5::boolean[]) AS u(bucket, record_id, kind, present)
WHERE c.org_id = $1
ON CONFLICT (org_id, bucket, record_id) DO UPDATE SET seq = excluded.seq, present = excluded.present`

const sqlNewHeads = `-- syncengine.NewHeads
INSERT INTO head (org_id, bucket, record_id, kind, seq, present)
SELECT c.org_id, u.bucket, u.record_id, u.kind, c.seq, u.present
FROM org_clock c, unnest($2::bigint[], $3::uuid[], $4::text[], $5::boolean[]) AS u(bucket, record_id, kind, present)
WHERE c.org_id = $1`

const sqlBuckets = `-- syncengine.Buckets
INSERT INTO bucket (org_id, num, kind, last_seq, count, sum)
SELECT c.org_id, u.num, u.kind, c.seq, u.count, u.sum
FROM org_clock c, unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[]) AS u(num, kind, count, sum)
WHERE c.org_id = $1
ON CONFLICT (org_id, num, kind) DO UPDATE
SET last_seq = excluded.last_seq, count = bucket.count + excluded.count, sum = bucket.sum + excluded.sum`

const sqlLedger = `-- syncengine.Ledger
INSERT INTO ledger (org_id, device_id, first, ids, verdicts, seq, at)
SELECT c.org_id, $2, $3, $4, $5::jsonb, c.seq, $6 FROM org_clock c WHERE c.org_id = $1`

const sqlLedgerSource = `-- syncengine.LedgerSource
INSERT INTO ledger_source (org_id, source, key, verdict, seq, at)
SELECT c.org_id, $2, $3, $4::jsonb, c.seq, $5 FROM org_clock c WHERE c.org_id = $1`

const sqlAdvanceLane = `-- syncengine.AdvanceLane
UPDATE lane SET next = $3, confirmed = greatest(confirmed, $4), last_event = $5,
  last_contact = $6, outbox_count = $7, outbox_oldest = $8, media_bytes = $9
WHERE org_id = $1 AND device_id = $2`

// Buckets.

const sqlFindBuckets = `-- syncengine.FindBuckets
SELECT b.stem, b.month, b.num FROM bucket_name b, unnest($2::text[], $3::text[]) AS u(stem, month)
WHERE b.org_id = $1 AND b.stem = u.stem AND b.month = u.month`

// The clock's row is locked first, so that who comes second finds what the first one made.
const sqlNewBuckets = `-- syncengine.NewBuckets
WITH c AS (UPDATE org_clock SET buckets = buckets + cardinality($2::text[]) WHERE org_id = $1 RETURNING buckets)
INSERT INTO bucket_name (org_id, stem, month, num)
SELECT $1, u.stem, u.month, c.buckets - u.n + 1
FROM c, unnest($2::text[], $3::text[]) WITH ORDINALITY AS u(stem, month, n)
ON CONFLICT (org_id, stem, month) DO NOTHING`

const sqlFollowed = `-- syncengine.Followed
SELECT stem, month, num FROM bucket_name WHERE org_id = $1 AND stem = ANY($2) AND (month = '' OR month >= $3)`
