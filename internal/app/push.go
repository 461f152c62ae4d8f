package app

import (
	"context"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/push"
)

// fcm is push's name of the channel; fcmToken is the contract's name of its addresses.
const (
	fcm      = "fcm"
	fcmToken = "fcm_token"
)

// addresses translates the contract's kinds of addresses to push's channels.
type addresses struct{ push *push.Push }

// SetAddress is push's.
func (a addresses) SetAddress(ctx context.Context, p *satchel.Principal, kind, address, language string) error {
	return a.push.SetAddress(ctx, p, channel(kind), address, language)
}

// RemoveAddress forgets the caller's address of a kind.
func (a addresses) RemoveAddress(ctx context.Context, p *satchel.Principal, kind string) error {
	return a.push.RemoveAddress(ctx, p, channel(kind))
}

// AddGrants is push's.
func (a addresses) AddGrants(ctx context.Context, p *satchel.Principal, key satchel.ID, templates []string) ([]push.Grant, error) {
	return a.push.AddGrants(ctx, p, key, templates)
}

func channel(kind string) string {
	if kind == fcmToken {
		return fcm
	}
	return kind
}
