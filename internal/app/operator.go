package app

import (
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/syncengine"
)

// Operator wires only what managing organisations and people takes, on a migrated database: no blob store, no secret,
// no server. What it enqueues is worked by the servers that run, or by the next one that does.
func Operator(pool *pgxpool.Pool) (*identity.Service, error) {
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
	return a.Identity, nil
}
