package satchelclient

import (
	"context"
	"errors"
	"fmt"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// Credentials sign a person in.
type Credentials struct {
	Org      string // the organisation's short name; "" = the only one on the server
	Login    string
	Password string

	DeviceName string // such as "Li Na's phone"
	Platform   string // such as "go"
	AppVersion string
}

// Identity is who the device speaks for. Ids are zero before the first sign-in.
type Identity struct {
	Org, Person, Device satchel.ID
	DisplayName         string
	SignedIn            bool // there is a session, as far as the device knows
}

// Identity tells who the device speaks for.
func (c *Client) Identity() Identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.identity
	return Identity{Org: id.Org, Person: id.Person, Device: id.Device, DisplayName: id.DisplayName, SignedIn: id.Access != ""}
}

// SignIn opens a session. The first one makes the store this person's for good; a later one of somebody else is
// refused with [ErrOtherPerson] and changes nothing, for an outbox is never sent by another person. When the server
// gives this installation a new device id, pending mutations are numbered anew. Refused credentials are an [*Error]
// with the reason BAD_CREDENTIALS or RATE_LIMITED.
func (c *Client) SignIn(ctx context.Context, who Credentials) error {
	if err := c.syncing.enter(ctx); err != nil {
		return err
	}
	defer c.syncing.leave()
	if err := c.refreshing.enter(ctx); err != nil {
		return err
	}
	defer c.refreshing.leave()

	before := c.snapshot()
	device := &satchelv1.DeviceInfo{Installation: before.Installation, Name: who.DeviceName, Platform: who.Platform, AppVersion: who.AppVersion}
	if was := before.session(); !was.IsZero() {
		device.DeviceId = was.String()
	}
	res, err := bare(ctx, c, c.cfg.Timeout, "", c.auth.SignIn, &satchelv1.SignInRequest{
		Org: who.Org, Login: who.Login, Password: who.Password, Device: device,
	})
	if err != nil {
		return err
	}
	after := before
	if err := errors.Join(after.Session.UnmarshalText([]byte(res.DeviceId)), after.Person.UnmarshalText([]byte(res.PersonId)),
		after.Org.UnmarshalText([]byte(res.OrgId))); err != nil {
		return fmt.Errorf("satchelclient: the answer to SignIn cannot be read: %w", err)
	}
	if !before.Person.IsZero() && (after.Person != before.Person || after.Org != before.Org) {
		// The session that was just opened is of no use here; if ending it fails, it runs out.
		if _, err := bare(ctx, c, c.cfg.Timeout, res.Tokens.GetAccessToken(), c.auth.SignOut, &satchelv1.SignOutRequest{}); err != nil {
			c.cfg.Logger.Warn("ending a session that is not this store's failed", "error", err)
		}
		return ErrOtherPerson
	}
	// The same session's device goes on under the id that a fork gave it; renumbering would apply again what was taken.
	moved := after.Session != before.session()
	if moved {
		after.Device = after.Session
	}
	after.DisplayName = res.DisplayName
	after.take(res.Tokens)
	return c.updateIdentity(ctx, "sign-in", after, func(tx Tx) error {
		if before.Device.IsZero() || !moved {
			return nil
		}
		return renumber(tx, 1)
	})
}

// SignOut ends the session of this device. Everything stays in the store for the next sign-in of the same person.
// With mutations that were not sent it answers [ErrUnsent] and does nothing.
func (c *Client) SignOut(ctx context.Context) error {
	if err := c.syncing.enter(ctx); err != nil {
		return err
	}
	defer c.syncing.leave()
	n, err := c.Pending(ctx)
	if err != nil {
		return err
	}
	if n > 0 {
		return ErrUnsent
	}
	_, err = call(ctx, c, c.cfg.Timeout, c.auth.SignOut, &satchelv1.SignOutRequest{})
	if err != nil && !errors.Is(err, ErrSignInAgain) {
		return err
	}
	return c.endSession(ctx, "sign-out")
}

// Refresh gives the session a new pair of tokens. Calls do so on their own when the server says that the token has
// expired. When the session has ended, the error is [ErrSignInAgain], and the outbox is kept.
func (c *Client) Refresh(ctx context.Context) error {
	_, err := c.refreshed(ctx, c.accessToken())
	return err
}

// refreshed gives a token newer than old. Of many callers at once, one asks the server and all get what it got: a
// refresh token that is used twice ends the session.
func (c *Client) refreshed(ctx context.Context, old string) (string, error) {
	if err := c.refreshing.enter(ctx); err != nil {
		return "", err
	}
	defer c.refreshing.leave()
	id := c.snapshot()
	if id.Access != old && id.Access != "" {
		return id.Access, nil
	}
	if id.Refresh == "" {
		return "", ErrSignInAgain
	}
	res, err := bare(ctx, c, c.cfg.Timeout, "", c.auth.Refresh, &satchelv1.RefreshRequest{RefreshToken: id.Refresh})
	if errors.Is(err, ErrSignInAgain) {
		return "", errors.Join(err, c.endSession(ctx, "session-ended"))
	}
	if err != nil {
		return "", err
	}
	id.take(res.Tokens)
	return id.Access, c.updateSession(ctx, "refresh", id)
}

// endSession forgets the tokens and nothing else.
func (c *Client) endSession(ctx context.Context, step string) error {
	return c.updateSession(ctx, step, identity{})
}

// updateSession stores and adopts the tokens of id; its other fields do not matter, for a fork may change them
// meanwhile.
func (c *Client) updateSession(ctx context.Context, step string, id identity) error {
	var next identity
	err := c.update(ctx, step, func(tx Tx) error {
		stored, err := getMeta[identity](tx, metaIdentity)
		if err != nil {
			return err
		}
		stored.Access, stored.Refresh, stored.RefreshExpiresMs = id.Access, id.Refresh, id.RefreshExpiresMs
		next = stored
		return putMeta(tx, metaIdentity, stored)
	})
	if err == nil {
		c.adopt(func(now *identity) {
			now.Access, now.Refresh, now.RefreshExpiresMs = next.Access, next.Refresh, next.RefreshExpiresMs
		})
	}
	return err
}

// updateIdentity stores and adopts id together with what else the transaction does.
func (c *Client) updateIdentity(ctx context.Context, step string, id identity, fn func(Tx) error) error {
	err := c.update(ctx, step, func(tx Tx) error {
		if err := putMeta(tx, metaIdentity, id); err != nil {
			return err
		}
		return fn(tx)
	})
	if err == nil {
		c.adopt(func(now *identity) { *now = id })
	}
	return err
}

func (c *Client) adopt(change func(*identity)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.identity)
}

func (c *Client) snapshot() identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.identity
}

func (c *Client) accessToken() string { return c.snapshot().Access }

func (id *identity) take(t *satchelv1.Tokens) {
	id.Access, id.Refresh, id.RefreshExpiresMs = t.GetAccessToken(), t.GetRefreshToken(), t.GetRefreshExpiresMs()
}

// SetFCMToken says that this device can be notified by Firebase Cloud Messaging under the registration token, with
// texts in Config.Language. Call it whenever the platform gives a new token.
func (c *Client) SetFCMToken(ctx context.Context, token string) error {
	_, err := call(ctx, c, c.cfg.Timeout, c.device.SetAddress, &satchelv1.SetAddressRequest{
		Kind: satchelv1.AddressKind_ADDRESS_KIND_FCM_TOKEN, Address: token, Language: c.cfg.Language})
	return err
}
