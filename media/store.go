package media

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel"
)

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

const sqlOwns = `-- media.Owns
select exists (select from blob_owner where org_id = $1 and sha256 = $2 and person_id = $3)`

// sqlLockPerson lets one Begin of a person run at a time, so that his limits hold.
const sqlLockPerson = `-- media.LockPerson
select pg_advisory_xact_lock(hashtextextended('media.person ' || k.org_id || ' ' || k.person_id, 0))
from (values ($1::uuid, $2::uuid)) k (org_id, person_id) where k.org_id = $1`

// sqlLockBlob and sqlShareBlob order "the bytes are here" and "this record names them": whichever commits later sees
// the other. Many records may name at once, so that they never wait for each other.
const sqlLockBlob = `-- media.LockBlob
select pg_advisory_xact_lock(hashtextextended('media.blob ' || k.org_id || encode(k.sha256, 'hex'), 0))
from (values ($1::uuid, $2::bytea)) k (org_id, sha256) where k.org_id = $1`

const sqlShareBlob = `-- media.ShareBlob
select pg_advisory_xact_lock_shared(hashtextextended('media.blob ' || k.org_id || encode(k.sha256, 'hex'), 0))
from (values ($1::uuid, $2::bytea)) k (org_id, sha256) where k.org_id = $1`

const sqlFindOpen = `-- media.FindOpen
select id, size, received from upload where org_id = $1 and person_id = $2 and sha256 = $3 and state = 'open' for update`

const sqlCountOpen = `-- media.CountOpen
select count(*), coalesce(sum(size), 0)::bigint from upload
where org_id = $1 and person_id = $2 and state = 'open' and expires_at > $3`

const sqlInsertUpload = `-- media.InsertUpload
insert into upload (org_id, id, person_id, device_id, sha256, size, content_type, created_at, expires_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

const sqlRenewUpload = `-- media.RenewUpload
update upload set device_id = $3, content_type = $4, expires_at = $5 where org_id = $1 and id = $2`

// sqlRestartUpload begins a new round; a round other than the caller's is not touched.
const sqlRestartUpload = `-- media.RestartUpload
update upload set size = $4, received = 0, pieces = 0, round = round + 1
where org_id = $1 and id = $2 and state = 'open' and round = coalesce($3, round)`

const sqlDeletePieces = `-- media.DeletePieces
delete from upload_piece where org_id = $1 and upload_id = $2`

const sqlGetUpload = `-- media.GetUpload
select id, sha256, size, content_type, received, pieces, round, state from upload
where org_id = $1 and id = $2 and person_id = $3 and state in ('open', 'done') and expires_at > $4`

const sqlGetPiece = `-- media.GetPiece
select size, sha256 from upload_piece where org_id = $1 and upload_id = $2 and start = $3`

const sqlListPieces = `-- media.ListPieces
select start, size, sha256 from upload_piece where org_id = $1 and upload_id = $2 order by start`

const sqlAdvance = `-- media.Advance
update upload set received = received + $5, pieces = pieces + 1
where org_id = $1 and id = $2 and round = $3 and received = $4 and state = 'open'`

const sqlInsertPiece = `-- media.InsertPiece
insert into upload_piece (org_id, upload_id, start, size, sha256) values ($1, $2, $3, $4, $5)`

const sqlFinish = `-- media.Finish
update upload set state = 'done' where org_id = $1 and id = $2 and round = $3 and state = 'open'`

const sqlInsertBlob = `-- media.InsertBlob
insert into blob (org_id, sha256, size, content_type, evidence, stored_at) values ($1, $2, $3, $4, $5, $6)
on conflict do nothing`

const sqlInsertOwner = `-- media.InsertOwner
insert into blob_owner (org_id, sha256, person_id, sent_at) values ($1, $2, $3, $4) on conflict do nothing`

const sqlGetBlob = `-- media.GetBlob
select size, content_type from blob where org_id = $1 and sha256 = $2`

const sqlOwned = `-- media.Owned
select b.size, b.content_type from blob b join blob_owner o using (org_id, sha256)
where b.org_id = $1 and b.sha256 = $2 and o.person_id = $3`

const sqlDropExpired = `-- media.DropExpired
update upload set state = 'dropped' where org_id = $1 and id in
    (select id from upload where org_id = $1 and state = 'open' and expires_at <= $2 order by expires_at limit $3)`

const sqlListEnded = `-- media.ListEnded
select id from upload where org_id = $1 and expires_at <= $2 and state in ('done', 'dropped') order by expires_at limit $3`

const sqlNextExpiry = `-- media.NextExpiry
select min(expires_at) from upload where org_id = $1`

const sqlDeleteUpload = `-- media.DeleteUpload
delete from upload where org_id = $1 and id = $2 and state in ('done', 'dropped')`

// upload is a row of the table.
type upload struct {
	id          satchel.ID
	sum         Sum
	size        int64
	contentType string
	received    int64
	pieces      int64
	round       int64
	done        bool
}

// getUpload gives the person's own upload; everybody else's, and one that expired, is NotFound.
func getUpload(ctx context.Context, q querier, p *satchel.Principal, id satchel.ID, now time.Time) (upload, error) {
	var (
		u     upload
		sum   []byte
		state string
	)
	err := q.QueryRow(ctx, sqlGetUpload, p.Org, id, p.Person, now).
		Scan(&u.id, &sum, &u.size, &u.contentType, &u.received, &u.pieces, &u.round, &state)
	if errors.Is(err, pgx.ErrNoRows) {
		return u, satchel.E(satchel.NotFound, satchel.ReasonNotFound, "There is no such upload, or it expired. Begin again.")
	}
	copy(u.sum[:], sum)
	u.done = state == "done"
	return u, err
}

// piece is a row of upload_piece.
type piece struct {
	start, size int64
	sum         Sum
}

func getPiece(ctx context.Context, q querier, org, id satchel.ID, start int64) (piece, bool, error) {
	p := piece{start: start}
	var sum []byte
	err := q.QueryRow(ctx, sqlGetPiece, org, id, start).Scan(&p.size, &sum)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, false, nil
	}
	copy(p.sum[:], sum)
	return p, err == nil, err
}

func listPieces(ctx context.Context, q querier, org, id satchel.ID) ([]piece, error) {
	rows, err := q.Query(ctx, sqlListPieces, org, id)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (piece, error) {
		var (
			p   piece
			sum []byte
		)
		err := row.Scan(&p.start, &p.size, &sum)
		copy(p.sum[:], sum)
		return p, err
	})
}
