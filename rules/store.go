package rules

const (
	sqlSet = `-- rules.Set
INSERT INTO timer (org_id, rule, record_id, anchor, due_at, token, state)
SELECT o.org_id, t.rule, t.record_id, t.anchor, t.due_at, t.token, 'waiting'
FROM directory_org o, unnest($2::text[], $3::uuid[], $4::text[], $5::timestamptz[], $6::uuid[])
  AS t(rule, record_id, anchor, due_at, token)
WHERE o.org_id = $1
ON CONFLICT (org_id, rule, record_id) DO UPDATE SET anchor = excluded.anchor, due_at = excluded.due_at,
  token = excluded.token, state = 'waiting', settled_at = NULL, late_ms = NULL`

	sqlCancel = `-- rules.Cancel
UPDATE timer SET state = 'cancelled', settled_at = $4
FROM unnest($2::text[], $3::uuid[]) AS t(rule, record_id)
WHERE timer.org_id = $1 AND timer.rule = t.rule AND timer.record_id = t.record_id AND timer.state = 'waiting'`

	sqlWaiting = `-- rules.Waiting
SELECT due_at FROM timer WHERE org_id = $1 AND rule = $2 AND record_id = $3 AND token = $4 AND state = 'waiting'`

	sqlLock = `-- rules.Lock
SELECT anchor, due_at FROM timer
WHERE org_id = $1 AND rule = $2 AND record_id = $3 AND token = $4 AND state = 'waiting' FOR UPDATE`

	sqlSettle = `-- rules.Settle
UPDATE timer SET state = $5, settled_at = $6, late_ms = $7
WHERE org_id = $1 AND rule = $2 AND record_id = $3 AND token = $4`
)
