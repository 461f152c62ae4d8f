package server

import (
	"context"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/identity"
)

type authService struct{ *Server }

// SignIn opens a session. A device id that is malformed is like an unknown one: the device gets a new id.
func (s authService) SignIn(ctx context.Context, in *satchelv1.SignInRequest) (*satchelv1.SignInResponse, error) {
	got, err := s.cfg.Identity.SignIn(ctx, identity.SignIn{
		Org: in.Org, Login: in.Login, Password: in.Password, Address: callOf(ctx).address, Device: deviceInfo(in.Device),
	})
	if err != nil {
		return nil, err
	}
	return wireSession(got), nil
}

// SignInWeChat opens a session by a code of wx.login.
func (s authService) SignInWeChat(ctx context.Context, in *satchelv1.SignInWeChatRequest) (*satchelv1.SignInWeChatResponse, error) {
	ask := identity.SignInWeChat{Code: in.Code, Org: in.Org, Address: callOf(ctx).address, Device: deviceInfo(in.Device)}
	if in.Bind != nil {
		ask.Bind = &identity.SignIn{Login: in.Bind.Login, Password: in.Bind.Password}
	}
	got, err := s.cfg.Identity.SignInWeChat(ctx, ask)
	if err != nil {
		return nil, err
	}
	return &satchelv1.SignInWeChatResponse{Session: wireSession(got)}, nil
}

// UnbindWeChat ends what binds a person to a WeChat user.
func (s authService) UnbindWeChat(ctx context.Context, in *satchelv1.UnbindWeChatRequest) (*satchelv1.UnbindWeChatResponse, error) {
	person, err := optionalID("person_id", in.PersonId)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Identity.UnbindWeChat(ctx, principal(ctx), person); err != nil {
		return nil, err
	}
	return &satchelv1.UnbindWeChatResponse{}, nil
}

// deviceInfo reads what a device says of itself. An id that is malformed is like none.
func deviceInfo(d *satchelv1.DeviceInfo) identity.DeviceInfo {
	id, err := satchel.ParseID(d.GetDeviceId())
	if err != nil {
		id = satchel.ID{}
	}
	return identity.DeviceInfo{ID: id, Installation: d.GetInstallation(), Name: d.GetName(), Platform: d.GetPlatform(),
		AppVersion: d.GetAppVersion()}
}

func wireSession(got *identity.Session) *satchelv1.SignInResponse {
	return &satchelv1.SignInResponse{
		Tokens: wireTokens(got.Tokens), DeviceId: text(got.Device), PersonId: text(got.Person), OrgId: text(got.Org),
		DisplayName: got.DisplayName,
	}
}

// Refresh gives the next pair of tokens.
func (s authService) Refresh(ctx context.Context, in *satchelv1.RefreshRequest) (*satchelv1.RefreshResponse, error) {
	got, err := s.cfg.Identity.Refresh(ctx, in.RefreshToken)
	if err != nil {
		return nil, err
	}
	return &satchelv1.RefreshResponse{Tokens: wireTokens(got)}, nil
}

// SignOut ends the session of this device.
func (s authService) SignOut(ctx context.Context, _ *satchelv1.SignOutRequest) (*satchelv1.SignOutResponse, error) {
	if err := s.cfg.Identity.SignOut(ctx, principal(ctx)); err != nil {
		return nil, err
	}
	return &satchelv1.SignOutResponse{}, nil
}

// WhoAmI describes the caller.
func (s authService) WhoAmI(ctx context.Context, _ *satchelv1.WhoAmIRequest) (*satchelv1.WhoAmIResponse, error) {
	me, err := s.cfg.Identity.WhoAmI(ctx, principal(ctx))
	if err != nil {
		return nil, err
	}
	return &satchelv1.WhoAmIResponse{
		PersonId: text(me.Person), DisplayName: me.DisplayName, OrgId: text(me.Org), OrgName: me.OrgName,
		DeviceId: text(me.Device), Roles: me.Roles, TeamId: text(me.Team),
	}, nil
}

// ChangePassword sets the caller's own password.
func (s authService) ChangePassword(ctx context.Context, in *satchelv1.ChangePasswordRequest) (*satchelv1.ChangePasswordResponse, error) {
	if err := s.cfg.Identity.ChangePassword(ctx, principal(ctx), in.OldPassword, in.NewPassword); err != nil {
		return nil, err
	}
	return &satchelv1.ChangePasswordResponse{}, nil
}

// SetUp creates the first organisation.
func (s authService) SetUp(ctx context.Context, in *satchelv1.SetUpRequest) (*satchelv1.SetUpResponse, error) {
	org, person, err := s.cfg.Identity.SetUp(ctx, identity.SetUp{
		Code: in.Code, Org: identity.NewOrg{Slug: in.Org, Name: in.OrgName},
		Login: in.Login, DisplayName: in.DisplayName, Password: in.Password,
	})
	if err != nil {
		return nil, err
	}
	return &satchelv1.SetUpResponse{OrgId: text(org), PersonId: text(person)}, nil
}

func wireTokens(t identity.Tokens) *satchelv1.Tokens {
	return &satchelv1.Tokens{
		AccessToken: t.Access, AccessExpiresMs: millis(t.AccessExpires),
		RefreshToken: t.Refresh, RefreshExpiresMs: millis(t.RefreshExpires),
	}
}
