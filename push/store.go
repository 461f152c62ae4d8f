package push

const (
	sqlNewDeliveries = `-- push.NewDeliveries
INSERT INTO delivery (org_id, notice_id, address_id, person_id, state, created_at)
SELECT a.org_id, n.notice_id, a.id, a.person_id, 'waiting', $4
FROM push_address a, unnest($2::uuid[], $3::uuid[]) AS n(notice_id, person_id)
WHERE a.org_id = $1 AND a.person_id = n.person_id
ON CONFLICT DO NOTHING
RETURNING notice_id, address_id`

	sqlDropOther = `-- push.DropOther
DELETE FROM push_address WHERE org_id = $1 AND device_id = $2 AND kind = $3 AND address <> $4`

	// A new id where it moves: deliveries to the one before must not reach the next.
	sqlSetAddress = `-- push.SetAddress
INSERT INTO push_address AS a (org_id, id, kind, address, person_id, device_id, language, set_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (org_id, kind, address) DO UPDATE SET
  id = CASE WHEN a.person_id = excluded.person_id AND a.device_id = excluded.device_id THEN a.id ELSE excluded.id END,
  person_id = excluded.person_id, device_id = excluded.device_id, language = excluded.language, set_at = excluded.set_at`

	sqlDropOldest = `-- push.DropOldest
DELETE FROM push_address WHERE org_id = $1 AND id IN (
  SELECT id FROM push_address WHERE org_id = $1 AND person_id = $2 ORDER BY set_at DESC, id DESC OFFSET $3)`

	sqlRemoveAddress = `-- push.RemoveAddress
DELETE FROM push_address WHERE org_id = $1 AND device_id = $2 AND kind = $3`

	sqlDropDevice = `-- push.DropDevice
DELETE FROM push_address WHERE org_id = $1 AND device_id = $2`

	sqlDropDead = `-- push.DropDead
DELETE FROM push_address WHERE org_id = $1 AND id = $2`

	// The row's lock lets one of two workers claim it; the join leaves out addresses that are gone or somebody else's.
	sqlClaim = `-- push.Claim
UPDATE delivery d SET state = 'sending', attempts = d.attempts + 1, claimed_at = $4
FROM push_address a
WHERE d.org_id = $1 AND d.notice_id = $2 AND d.address_id = $3
  AND (d.state = 'waiting' OR d.state = 'sending' AND d.claimed_at < $5)
  AND a.org_id = $1 AND a.id = d.address_id AND a.person_id = d.person_id
RETURNING a.kind, a.address, a.language, d.attempts, d.created_at`

	sqlState = `-- push.State
SELECT state, claimed_at FROM delivery WHERE org_id = $1 AND notice_id = $2 AND address_id = $3`

	sqlSettle = `-- push.Settle
UPDATE delivery SET state = $4, settled_at = $5
WHERE org_id = $1 AND notice_id = $2 AND address_id = $3 AND state IN ('waiting', 'sending')`

	sqlRetry = `-- push.Retry
UPDATE delivery SET state = 'waiting' WHERE org_id = $1 AND notice_id = $2 AND address_id = $3 AND state = 'sending'`

	// Of the WeChat user whom the person is bound to; nothing where there is none.
	sqlWeChatUser = `-- push.WeChatUser
SELECT app_id, openid FROM directory_wechat WHERE org_id = $1 AND person_id = $2 ORDER BY app_id LIMIT 1`

	// One report for each template, which is counted once.
	sqlAddGrants = `-- push.AddGrants
INSERT INTO wechat_grant AS g (org_id, app_id, openid, template, count, last_key, granted_at)
SELECT $1, $2, $3, t.template, 1, $5, $6 FROM unnest($4::text[]) AS t(template) ORDER BY t.template
ON CONFLICT (org_id, app_id, openid, template) DO UPDATE SET
  count = least(g.count + 1, $7::integer), last_key = excluded.last_key, granted_at = excluded.granted_at
WHERE g.last_key <> excluded.last_key`

	sqlDropOldGrants = `-- push.DropOldGrants
DELETE FROM wechat_grant WHERE org_id = $1 AND app_id = $2 AND openid = $3 AND template IN (
  SELECT template FROM wechat_grant WHERE org_id = $1 AND app_id = $2 AND openid = $3
  ORDER BY granted_at DESC, template OFFSET $4)`

	sqlGrants = `-- push.Grants
SELECT template, count FROM wechat_grant WHERE org_id = $1 AND app_id = $2 AND openid = $3 ORDER BY template`
)
