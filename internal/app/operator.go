package app

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/desk"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/syncengine"
)

// Tools is what an operator's commands work with.
type Tools struct {
	Identity *identity.Service
	Engine   *syncengine.Engine
	Desk     *desk.Desk

	pool *pgxpool.Pool
	jobs *jobs.Jobs
}

// Operator wires only what managing organisations, people and devices takes, on a migrated database: no blob store, no
// secret, no server. What it enqueues is worked by the servers that run, or by the next one that does.
func Operator(pool *pgxpool.Pool) (*Tools, error) {
	log := slog.New(slog.DiscardHandler)
	a := &App{pool: pool}
	var err error
	if a.Jobs, err = jobs.New(pool, jobs.Config{Logger: log}); err != nil {
		return nil, fmt.Errorf("app.Operator: %w", err)
	}
	if a.Engine, err = syncengine.New(syncengine.Config{Pool: pool, Jobs: a.Jobs, Logger: log}); err != nil {
		return nil, fmt.Errorf("app.Operator: %w", err)
	}
	a.Identity, err = identity.New(identity.Config{Pool: pool, Rights: a.Engine, Roles: a.roles, MayManage: a.mayManage, Logger: log})
	if err != nil {
		return nil, fmt.Errorf("app.Operator: %w", err)
	}
	d, err := desk.New(desk.Config{Engine: a.Engine, Devices: devices(a.Identity)})
	if err != nil {
		return nil, fmt.Errorf("app.Operator: %w", err)
	}
	return &Tools{Identity: a.Identity, Engine: a.Engine, Desk: d, pool: pool, jobs: a.Jobs}, nil
}

// devices spells identity's devices as the desk asks for them.
func devices(s *identity.Service) func(ctx context.Context, org, person, after satchel.ID, limit int) ([]desk.Device, error) {
	return func(ctx context.Context, org, person, after satchel.ID, limit int) ([]desk.Device, error) {
		list, err := s.DevicesOf(ctx, org, person, after, limit)
		if err != nil {
			return nil, err
		}
		out := make([]desk.Device, len(list))
		for i, d := range list {
			out[i] = desk.Device{ID: d.ID, Person: d.Person, Name: d.Name, Platform: d.Platform, AppVersion: d.AppVersion,
				SignedIn: d.LastSignIn, Revoked: d.Revoked}
		}
		return out, nil
	}
}
