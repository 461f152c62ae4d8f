package server

import (
	"context"
	"maps"
	"slices"
	"strings"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/schema"
)

type directoryService struct{ *Server }

// ListPeople gives a page of people.
func (s directoryService) ListPeople(ctx context.Context, in *satchelv1.ListPeopleRequest) (*satchelv1.ListPeopleResponse, error) {
	people, next, err := s.cfg.Identity.ListPeople(ctx, principal(ctx), int(in.PageSize), in.PageToken)
	if err != nil {
		return nil, err
	}
	out := &satchelv1.ListPeopleResponse{NextPageToken: next}
	for _, p := range people {
		out.People = append(out.People, wirePerson(p))
	}
	return out, nil
}

// CreatePerson adds somebody.
func (s directoryService) CreatePerson(ctx context.Context, in *satchelv1.CreatePersonRequest) (*satchelv1.CreatePersonResponse, error) {
	team, err := optionalID("team_id", in.TeamId)
	if err != nil {
		return nil, err
	}
	got, err := s.cfg.Identity.CreatePerson(ctx, principal(ctx), identity.NewPerson{
		Login: in.Login, DisplayName: in.DisplayName, Team: team, Roles: in.Roles, Password: in.Password})
	if err != nil {
		return nil, err
	}
	return &satchelv1.CreatePersonResponse{Person: wirePerson(got)}, nil
}

// UpdatePerson changes what is present.
func (s directoryService) UpdatePerson(ctx context.Context, in *satchelv1.UpdatePersonRequest) (*satchelv1.UpdatePersonResponse, error) {
	id, err := parseID("person_id", in.PersonId)
	if err != nil {
		return nil, err
	}
	patch := identity.PersonPatch{Person: id, DisplayName: in.DisplayName, Disabled: in.Disabled}
	if patch.Team, err = presentID("team_id", in.TeamId); err != nil {
		return nil, err
	}
	if in.Roles != nil {
		roles := append([]string{}, in.Roles.Roles...)
		patch.Roles = &roles
	}
	got, err := s.cfg.Identity.UpdatePerson(ctx, principal(ctx), patch)
	if err != nil {
		return nil, err
	}
	return &satchelv1.UpdatePersonResponse{Person: wirePerson(got)}, nil
}

// ResetPassword sets a password.
func (s directoryService) ResetPassword(ctx context.Context, in *satchelv1.ResetPasswordRequest) (*satchelv1.ResetPasswordResponse, error) {
	id, err := parseID("person_id", in.PersonId)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Identity.ResetPassword(ctx, principal(ctx), id, in.NewPassword); err != nil {
		return nil, err
	}
	return &satchelv1.ResetPasswordResponse{}, nil
}

// ListTeams gives the tree.
func (s directoryService) ListTeams(ctx context.Context, _ *satchelv1.ListTeamsRequest) (*satchelv1.ListTeamsResponse, error) {
	teams, err := s.cfg.Identity.ListTeams(ctx, principal(ctx))
	if err != nil {
		return nil, err
	}
	out := &satchelv1.ListTeamsResponse{}
	for _, t := range teams {
		out.Teams = append(out.Teams, wireTeam(t))
	}
	return out, nil
}

// CreateTeam adds a team.
func (s directoryService) CreateTeam(ctx context.Context, in *satchelv1.CreateTeamRequest) (*satchelv1.CreateTeamResponse, error) {
	parent, err := optionalID("parent_id", in.ParentId)
	if err != nil {
		return nil, err
	}
	got, err := s.cfg.Identity.CreateTeam(ctx, principal(ctx), in.Name, parent)
	if err != nil {
		return nil, err
	}
	return &satchelv1.CreateTeamResponse{Team: wireTeam(got)}, nil
}

// UpdateTeam renames or moves a team.
func (s directoryService) UpdateTeam(ctx context.Context, in *satchelv1.UpdateTeamRequest) (*satchelv1.UpdateTeamResponse, error) {
	id, err := parseID("team_id", in.TeamId)
	if err != nil {
		return nil, err
	}
	patch := identity.TeamPatch{Team: id, Name: in.Name}
	if patch.Parent, err = presentID("parent_id", in.ParentId); err != nil {
		return nil, err
	}
	got, err := s.cfg.Identity.UpdateTeam(ctx, principal(ctx), patch)
	if err != nil {
		return nil, err
	}
	return &satchelv1.UpdateTeamResponse{Team: wireTeam(got)}, nil
}

// presentID reads an id that may be absent (unchanged) or empty (none).
func presentID(field string, s *string) (*satchel.ID, error) {
	if s == nil {
		return nil, nil
	}
	id, err := optionalID(field, *s)
	if err != nil {
		return nil, err
	}
	return &id, nil
}

func wirePerson(p identity.Person) *satchelv1.Person {
	return &satchelv1.Person{Id: text(p.ID), Login: p.Login, DisplayName: p.DisplayName, TeamId: text(p.Team),
		Roles: p.Roles, Disabled: p.Disabled}
}

func wireTeam(t identity.Team) *satchelv1.Team {
	return &satchelv1.Team{Id: text(t.ID), Name: t.Name, ParentId: text(t.Parent)}
}

type deviceService struct{ *Server }

// ListDevices gives a person's devices with what the engine knows of their queues.
func (s deviceService) ListDevices(ctx context.Context, in *satchelv1.ListDevicesRequest) (*satchelv1.ListDevicesResponse, error) {
	p := principal(ctx)
	person, err := optionalID("person_id", in.PersonId)
	if err != nil {
		return nil, err
	}
	devices, err := s.cfg.Identity.ListDevices(ctx, p, person)
	if err != nil {
		return nil, err
	}
	ids := make([]satchel.ID, len(devices))
	for i, d := range devices {
		ids[i] = d.ID
	}
	lanes, err := s.cfg.Engine.Lanes(ctx, p.Org, ids)
	if err != nil {
		return nil, err
	}
	out := &satchelv1.ListDevicesResponse{}
	for _, d := range devices {
		lane := lanes[d.ID]
		out.Devices = append(out.Devices, &satchelv1.Device{
			Id: text(d.ID), PersonId: text(d.Person), Name: d.Name, Platform: d.Platform, AppVersion: d.AppVersion,
			LastContactMs: millis(lane.LastContact), OutboxCount: lane.OutboxCount, RevokedMs: millis(d.Revoked),
		})
	}
	return out, nil
}

// RevokeDevice ends a device.
func (s deviceService) RevokeDevice(ctx context.Context, in *satchelv1.RevokeDeviceRequest) (*satchelv1.RevokeDeviceResponse, error) {
	id, err := parseID("device_id", in.DeviceId)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Identity.RevokeDevice(ctx, principal(ctx), id); err != nil {
		return nil, err
	}
	return &satchelv1.RevokeDeviceResponse{}, nil
}

// SetAddress says where this device can be notified.
func (s deviceService) SetAddress(ctx context.Context, in *satchelv1.SetAddressRequest) (*satchelv1.SetAddressResponse, error) {
	if s.cfg.Push == nil {
		return nil, absent()
	}
	language := "en"
	if strings.HasPrefix(strings.ToLower(in.Language), "zh") {
		language = "zh-CN"
	}
	if err := s.cfg.Push.SetAddress(ctx, principal(ctx), addressKind(in.Kind), in.Address, language); err != nil {
		return nil, err
	}
	return &satchelv1.SetAddressResponse{}, nil
}

// RemoveAddress forgets it.
func (s deviceService) RemoveAddress(ctx context.Context, in *satchelv1.RemoveAddressRequest) (*satchelv1.RemoveAddressResponse, error) {
	if s.cfg.Push == nil {
		return nil, absent()
	}
	if err := s.cfg.Push.RemoveAddress(ctx, principal(ctx), addressKind(in.Kind)); err != nil {
		return nil, err
	}
	return &satchelv1.RemoveAddressResponse{}, nil
}

// AddGrants counts accepted templates of a mini-program.
func (s deviceService) AddGrants(ctx context.Context, in *satchelv1.AddGrantsRequest) (*satchelv1.AddGrantsResponse, error) {
	if s.cfg.Push == nil {
		return nil, absent()
	}
	key, err := parseID("key", in.Key)
	if err != nil {
		return nil, err
	}
	got, err := s.cfg.Push.AddGrants(ctx, principal(ctx), key, in.Templates)
	if err != nil {
		return nil, err
	}
	out := &satchelv1.AddGrantsResponse{}
	for _, g := range got {
		out.Grants = append(out.Grants, &satchelv1.Grant{Template: g.Template, Count: uint32(g.Count)})
	}
	return out, nil
}

func addressKind(k satchelv1.AddressKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "ADDRESS_KIND_"))
}

type schemaService struct{ *Server }

// GetSchema gives the kinds that the caller can read or create, without the fields that are hidden from him, and the
// texts of notices.
func (s schemaService) GetSchema(ctx context.Context, in *satchelv1.GetSchemaRequest) (*satchelv1.GetSchemaResponse, error) {
	p := principal(ctx)
	now, _, err := s.cfg.Engine.Org(ctx, p.Org)
	if err != nil {
		return nil, err
	}
	out := &satchelv1.GetSchemaResponse{Version: uint32(now.Version)}
	if in.HaveVersion != 0 && in.HaveVersion == out.Version {
		return out, nil
	}
	grants := access.NewGrants(now, p.Roles)
	for _, name := range now.Kinds() {
		if k := wireKind(now.Kind(name), grants); k != nil {
			out.Kinds = append(out.Kinds, k)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now.Templates)) {
		t := now.Templates[name]
		out.Templates = append(out.Templates, &satchelv1.TemplateInfo{Name: name, TextZh: t.ZH, TextEn: t.EN})
	}
	return out, nil
}

// wireKind describes a kind; nil = it is nothing to the caller.
func wireKind(k *schema.Kind, grants *access.Grants) *satchelv1.KindInfo {
	g := grants.Kind(k.Name)
	reads := g.Read != schema.None
	if !reads && !g.Create {
		return nil
	}
	out := &satchelv1.KindInfo{Name: k.Name, LabelZh: k.LabelZH, LabelEn: k.LabelEN, Fact: k.Fact,
		CanCreate: g.Create, CanUpdate: g.Update != schema.None, CanDelete: g.Delete != schema.None}
	for _, f := range k.Fields() {
		right, writes := grants.Field(k.Name, f.Name), grants.MayWrite(k, f)
		if right == schema.Hidden && (reads || !writes) {
			continue
		}
		out.Fields = append(out.Fields, &satchelv1.FieldInfo{
			Name: f.Name, Type: string(f.Type), LabelZh: f.LabelZH, LabelEn: f.LabelEN, Merge: string(f.Merge),
			Group: f.Group, Required: f.Required, Choices: f.Choices, Target: f.Target, CanWrite: writes,
			Masked: right == schema.Masked,
		})
	}
	return out
}
