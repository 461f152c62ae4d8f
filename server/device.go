package server

import (
	"context"
	"strings"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

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

func addressKind(k satchelv1.AddressKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "ADDRESS_KIND_"))
}
