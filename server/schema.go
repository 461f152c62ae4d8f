package server

import (
	"context"

	"github.com/satchel-sync/satchel/access"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/schema"
)

type schemaService struct{ *Server }

// GetSchema gives the kinds that the caller can read or create, without the fields that are hidden from him.
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
