package push

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
)

// Limits of grants.
const (
	MaxGrants    = 100 // of one template that are counted
	MaxTemplates = 20  // of one WeChat user; the longest ungranted are dropped
)

// Grant is how many messages of a template a WeChat user still allows.
type Grant struct {
	Template string
	Count    int // at most MaxGrants
}

// AddGrants counts one message for each template that the caller accepted in one prompt of the mini-program, and gives
// all that he has granted, by template. key names the prompt: the same again, before another, counts nothing. They are
// the grants of the WeChat user whom the caller is bound to; without one the error is WECHAT_NOT_BOUND. Templates are
// distinct.
func (p *Push) AddGrants(ctx context.Context, who *satchel.Principal, key satchel.ID, templates []string) (out []Grant, err error) {
	err = pg.InTx(ctx, p.cfg.Pool, func(ctx context.Context, tx pgx.Tx) error {
		var app, open string
		err := tx.QueryRow(ctx, sqlWeChatUser, who.Org, who.Person).Scan(&app, &open)
		if errors.Is(err, pgx.ErrNoRows) {
			return satchel.E(satchel.Precondition, satchel.ReasonWeChatNotBound, "The person is bound to no WeChat user. Sign in by WeChat first.")
		}
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, sqlAddGrants, who.Org, app, open, templates, key, p.cfg.Now(), MaxGrants); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, sqlDropOldGrants, who.Org, app, open, MaxTemplates); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, sqlGrants, who.Org, app, open)
		if err != nil {
			return err
		}
		out, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Grant])
		return err
	})
	return out, err
}
