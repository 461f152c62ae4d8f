package enginetest

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// World is an organisation in Asia/Shanghai with the field-sales pack. It is 2026-11-21 08:00 UTC.
//
//	head: Dina (director), Adi (admin)
//	├── north: Mei (manager), Ann and Ben (reps)
//	└── south: Cem (rep)
type World struct {
	Pool   *pgxpool.Pool
	Org    satchel.ID
	People map[string]satchel.ID
	Teams  map[string]satchel.ID
	Replica

	t     testing.TB
	clock atomic.Int64 // milliseconds
}

// Replica is one server process: an engine and its queue, on which features are registered.
type Replica struct {
	Engine *syncengine.Engine
	Jobs   *jobs.Jobs
}

// New makes a world with one replica.
func New(t testing.TB) *World {
	t.Helper()
	w := &World{t: t, Pool: pgtest.New(t), Org: satchel.NewID(), People: map[string]satchel.ID{}, Teams: map[string]satchel.ID{}}
	w.clock.Store(time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC).UnixMilli())
	w.Replica = w.NewReplica()
	w.Exec(`INSERT INTO org (org_id, slug, name, created_at) VALUES ($1, 'acme', 'Acme', now())`, w.Org)
	if err := pgx.BeginFunc(context.Background(), w.Pool, func(tx pgx.Tx) error {
		return w.Engine.OrgCreated(context.Background(), tx, w.Org)
	}); err != nil {
		t.Fatal(err)
	}
	for _, team := range [][2]string{{"head", ""}, {"north", "head"}, {"south", "head"}} {
		id := satchel.NewID()
		var parent any
		if team[1] != "" {
			parent = w.Teams[team[1]]
		}
		w.Teams[team[0]] = id
		w.Exec(`INSERT INTO team (org_id, id, parent_id, name, created_at) VALUES ($1, $2, $3, $4, now())`, w.Org, id, parent, team[0])
	}
	for _, p := range [][3]string{{"Dina", "head", "director"}, {"Adi", "head", "admin"}, {"Mei", "north", "manager"},
		{"Ann", "north", "rep"}, {"Ben", "north", "rep"}, {"Cem", "south", "rep"}} {
		id := satchel.NewID()
		w.People[p[0]] = id
		w.Exec(`INSERT INTO person (org_id, id, login, login_fold, display_name, team_id, roles, created_at)
			VALUES ($1, $2, $3, lower($3), $3, $4, ARRAY[$5], now())`, w.Org, id, p[0], w.Teams[p[1]], p[2])
	}
	return w
}

// NewReplica makes another process on the same database.
func (w *World) NewReplica() Replica {
	w.t.Helper()
	q, err := jobs.New(w.Pool, jobs.Config{Now: w.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := syncengine.New(syncengine.Config{Pool: w.Pool, Jobs: q, Now: w.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	for kind, h := range e.Handlers() {
		q.Handle(kind, h)
	}
	return Replica{Engine: e, Jobs: q}
}

// Now is the world's time.
func (w *World) Now() time.Time { return time.UnixMilli(w.clock.Load()).UTC() }

// Pass lets time pass.
func (w *World) Pass(d time.Duration) { w.clock.Add(d.Milliseconds()) }

// Exec runs a statement.
func (w *World) Exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.Pool.Exec(context.Background(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

// ChangeRights runs a statement on people or teams and counts the change, as identity does.
func (w *World) ChangeRights(sql string, args ...any) {
	w.t.Helper()
	if err := pgx.BeginFunc(context.Background(), w.Pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(context.Background(), sql, args...); err != nil {
			return err
		}
		return w.Engine.RightsChanged(context.Background(), tx, w.Org)
	}); err != nil {
		w.t.Fatal(err)
	}
}

// Text gives the one text that a query gives; "" = no row or NULL.
func (w *World) Text(sql string, args ...any) string {
	w.t.Helper()
	var s *string
	err := w.Pool.QueryRow(context.Background(), sql, args...).Scan(&s)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && s == nil {
		return ""
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return *s
}

// Step works all jobs that are due.
func (w *World) Step() {
	w.t.Helper()
	if _, err := w.Jobs.Step(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

// Principal is the person as authentication finds him now, on the device (zero = none).
func (w *World) Principal(name string, device satchel.ID) *satchel.Principal {
	w.t.Helper()
	p := &satchel.Principal{Org: w.Org, Person: w.People[name], Device: device}
	if err := w.Pool.QueryRow(context.Background(), `SELECT roles FROM person WHERE org_id = $1 AND id = $2`,
		w.Org, p.Person).Scan(&p.Roles); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// Record gives a record as it stands; nil = there is none.
func (w *World) Record(id satchel.ID) *schema.Record {
	w.t.Helper()
	rec, err := w.Engine.Record(context.Background(), w.Org, id)
	if err != nil {
		w.t.Fatal(err)
	}
	return rec
}

// Records gives what stands of a kind, oldest first by id.
func (w *World) Records(kind string) []*schema.Record {
	w.t.Helper()
	rows, err := w.Pool.Query(context.Background(),
		`SELECT id FROM record WHERE org_id = $1 AND kind = $2 AND NOT deleted ORDER BY id`, w.Org, kind)
	if err != nil {
		w.t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[satchel.ID])
	if err != nil {
		w.t.Fatal(err)
	}
	var out []*schema.Record
	for _, id := range ids {
		out = append(out, w.Record(id))
	}
	return out
}

// Phone is a device of a person that numbers its mutations. It belongs to one goroutine.
type Phone struct {
	Device satchel.ID
	w      *World
	name   string
	next   uint64
}

// Phone gives a person a new device.
func (w *World) Phone(name string) *Phone {
	return &Phone{Device: satchel.NewID(), w: w, name: name, next: 1}
}

// Mutation records ops as the phone's next mutation, without sending it.
func (p *Phone) Mutation(ops ...syncengine.Op) syncengine.Mutation {
	m := syncengine.Mutation{Number: p.next, ID: satchel.NewID(), Ops: ops,
		Recorded: syncengine.ClockReading{WallMS: p.w.clock.Load()}}
	p.next++
	return m
}

// Send sends mutations in one batch and gives their verdicts.
func (p *Phone) Send(ms ...syncengine.Mutation) []syncengine.Verdict {
	p.w.t.Helper()
	out, err := p.w.Engine.Apply(context.Background(), p.w.Principal(p.name, p.Device), syncengine.Batch{Mutations: ms})
	if err != nil {
		p.w.t.Fatal(err)
	}
	if len(out.Verdicts) != len(ms) {
		p.w.t.Fatalf("%d mutations got %d verdicts; undone: %s", len(ms), len(out.Verdicts), out.Undone)
	}
	return out.Verdicts
}

// Do records ops as one mutation, sends it and gives its verdict.
func (p *Phone) Do(ops ...syncengine.Op) syncengine.Verdict {
	p.w.t.Helper()
	return p.Send(p.Mutation(ops...))[0]
}

// MustDo is Do that must be applied as sent.
func (p *Phone) MustDo(ops ...syncengine.Op) {
	p.w.t.Helper()
	if v := p.Do(ops...); v.Status != syncengine.Applied {
		p.w.t.Fatalf("%s: %s %s %v %s", p.name, v.Status, v.Reason, v.Paths, v.Detail)
	}
}

// Account creates an account of the phone's person.
func (p *Phone) Account() satchel.ID {
	p.w.t.Helper()
	id := satchel.NewID()
	p.MustDo(Create("account", id, map[string]any{"name": "Orient Machinery"}))
	return id
}

// Create makes an op.
func Create(kind string, id satchel.ID, fields map[string]any) syncengine.Op {
	return syncengine.Op{Action: syncengine.Create, Record: id, Kind: kind, Fields: raw(fields)}
}

// Patch makes an op.
func Patch(kind string, id satchel.ID, base uint64, fields map[string]any) syncengine.Op {
	return syncengine.Op{Action: syncengine.Patch, Record: id, Kind: kind, BaseRev: base, Fields: raw(fields)}
}

// Delete makes an op.
func Delete(kind string, id satchel.ID, base uint64) syncengine.Op {
	return syncengine.Op{Action: syncengine.Delete, Record: id, Kind: kind, BaseRev: base}
}

// Command makes an op.
func Command(name, kind string, id satchel.ID, args map[string]any) syncengine.Op {
	return syncengine.Op{Action: syncengine.Command, Name: name, Record: id, Kind: kind, Args: raw(args)}
}

func raw(fields map[string]any) json.RawMessage {
	b, err := json.Marshal(fields)
	if err != nil {
		panic(err) // a test's own literal
	}
	return b
}
