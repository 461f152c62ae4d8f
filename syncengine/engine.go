package syncengine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine/waiters"
)

// Queue takes jobs in a transaction; internal/jobs satisfies it.
type Queue interface {
	Enqueue(ctx context.Context, tx pgx.Tx, js ...jobs.Job) error
}

// Config is what an engine needs.
type Config struct {
	Pool *pgxpool.Pool
	Jobs Queue
	// Now is the clock by which mutations are received. Defaults to time.Now.
	Now func() time.Time
	// Logger defaults to slog.Default.
	Logger *slog.Logger
	// Deadline bounds the applying of one batch. Defaults to 3 s.
	Deadline time.Duration
	// PollEvery is how often a replica with waiters asks what other replicas committed. Defaults to 300 ms.
	PollEvery time.Duration
	// KeepTombstones is how long devices may stay away and still go on: what was deleted, or left their buckets, is told
	// them for so long. Behind that horizon they repair. Defaults to 180 days.
	KeepTombstones time.Duration
}

// Engine applies and hands out. It is safe for concurrent use; any number of replicas may share a database.
type Engine struct {
	cfg       Config
	commands  map[string]CommandFunc
	observers []Observer
	guards    []GuardFunc
	waiters   *waiters.Waiters

	mu     sync.Mutex // guards what follows
	orgs   map[satchel.ID]*org
	grants map[string]*grantsEntry
	follow map[followKey]following
	views  map[viewKey]knownView
	nums   map[bucketKey]int64   // committed numbers of buckets, which never change in an epoch
	seqs   map[satchel.ID]uint64 // the clock's seq as it was read last
	lineAt time.Time             // when the database's line began, as it was read last; zero = not yet
}

// cacheLimit bounds each of the engine's caches, in entries; a full cache is emptied.
const cacheLimit = 20_000

// New makes an engine. Commands and observers are registered before the first call.
func New(cfg Config) (*Engine, error) {
	if cfg.Pool == nil || cfg.Jobs == nil {
		return nil, errors.New("syncengine.New: Pool and Jobs are needed")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Deadline == 0 {
		cfg.Deadline = 3 * time.Second
	}
	if cfg.PollEvery == 0 {
		cfg.PollEvery = 300 * time.Millisecond
	}
	if cfg.KeepTombstones == 0 {
		cfg.KeepTombstones = 180 * 24 * time.Hour
	}
	return &Engine{
		cfg: cfg, commands: map[string]CommandFunc{}, waiters: waiters.New(),
		orgs: map[satchel.ID]*org{}, grants: map[string]*grantsEntry{},
		follow: map[followKey]following{}, views: map[viewKey]knownView{}, nums: map[bucketKey]int64{}, seqs: map[satchel.ID]uint64{},
	}, nil
}

// Command registers what runs for a command of that name; a second registration replaces the first. Not safe for
// concurrent use with Apply.
func (e *Engine) Command(name string, fn CommandFunc) { e.commands[name] = fn }

// Observe registers an observer. Not safe for concurrent use with Apply.
func (e *Engine) Observe(fn Observer) { e.observers = append(e.observers, fn) }

// Guard registers what may refuse edits and deletions; all are asked. Not safe for concurrent use with Apply.
func (e *Engine) Guard(fn GuardFunc) { e.guards = append(e.guards, fn) }

// lineEvery is how often a replica asks whether the database is still on the line that it knows. askTime bounds each
// question of Run: a commit that waits for a standby would hold up all that come behind it.
const (
	lineEvery = time.Second
	askTime   = 10 * time.Second
)

// Run wakes the waiters of this replica for what other replicas commit, and watches the database's line, until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	tick, line := time.NewTicker(e.cfg.PollEvery), time.NewTicker(lineEvery)
	defer tick.Stop()
	defer line.Stop()
	upgraded := false // what was not understood is looked at again, and the daily jobs are there
	ask := func(question func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		return question(ctx)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-line.C:
			if err := ask(e.watchLine); err != nil && ctx.Err() == nil {
				e.cfg.Logger.Warn("syncengine: could not ask for the database's line", "error", err)
			}
			continue
		case <-tick.C:
		}
		if !upgraded {
			err := ask(e.upgraded)
			if err == nil {
				err = ask(e.seedTidy)
			}
			if upgraded = err == nil; !upgraded && ctx.Err() == nil {
				e.cfg.Logger.Warn("syncengine: could not enqueue what a start brings along", "error", err)
			}
		}
		if err := ask(e.pollOthers); err != nil && ctx.Err() == nil {
			// Waiters time out by themselves and pull; the next tick tries again.
			e.cfg.Logger.Warn("syncengine: could not ask for other replicas' commits", "error", err)
		}
	}
}

// put stores in a bounded cache.
func put[K comparable, V any](m map[K]V, k K, v V) {
	if len(m) >= cacheLimit {
		clear(m)
	}
	m[k] = v
}

// The kinds of jobs that the engine enqueues for itself.
const (
	JobDirectory = "engine.directory" // mirror people and teams into records, move what their changes move
	JobChildren  = "engine.children"  // move what hangs under a record whose owner changed
	JobParked    = "engine.parked"    // apply what waited for a refused creation
	JobUpgraded  = "engine.upgraded"  // apply what was not understood
	JobRestored  = "engine.restored"  // apply what named a record that came later, after a restore
	JobTidy      = "engine.tidy"      // delete what nobody can ask for any more
	JobMerged    = "engine.merged"    // lead to the root what hangs under a record that was merged
)

// clock is an organisation's row of org_clock as a transaction read it.
type clock struct {
	Seq, Rights, Buckets uint64
	SchemaVersion        int
	Key                  []byte
	Horizon              uint64 // the highest seq whose tombstones are gone
	Cuts                 []Cut  // where the older epochs ended, oldest first
}

// scan reads the columns clockColumns, and more behind them.
func (c *clock) scan(r pgx.Row, more ...any) error {
	var cuts []byte
	err := r.Scan(append([]any{&c.Seq, &c.Rights, &c.Buckets, &c.SchemaVersion, &c.Key, &c.Horizon, &cuts}, more...)...)
	if err == nil {
		c.Cuts, err = readCuts(cuts)
	}
	return err
}

// seen is what of it a replica wakes waiters for.
func (c clock) seen() waiters.Seen {
	return waiters.Seen{Seq: c.Seq, Rights: c.Rights, Buckets: c.Buckets}
}

// org is what the engine knows of an organisation at one count of rights and one schema version; immutable.
type org struct {
	id     satchel.ID
	rights uint64
	schema *schema.Schema
	dir    *access.Directory
	zone   *time.Location
	key    []byte // signs cursors and tokens
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// org gives the organisation as it stands at the clock that the caller has read.
func (e *Engine) org(ctx context.Context, q querier, id satchel.ID, c clock) (*org, error) {
	e.notice(id, c)
	e.mu.Lock()
	o := e.orgs[id]
	e.mu.Unlock()
	if o != nil && o.rights == c.Rights && o.schema.Version == c.SchemaVersion {
		return o, nil
	}
	o, err := loadOrg(ctx, q, id, c)
	if err != nil {
		return nil, err
	}
	// Outside a snapshot each statement sees its own moment: what was read while rights moved is of no single count,
	// so it is not kept. Who commits by it fails and is done again; who pulls by it comes back for the next page.
	if now, err := readClock(ctx, q, id); err != nil || now.Rights != c.Rights || now.SchemaVersion != c.SchemaVersion {
		return o, err
	}
	e.mu.Lock()
	put(e.orgs, id, o)
	e.mu.Unlock()
	return o, nil
}

func loadOrg(ctx context.Context, q querier, id satchel.ID, c clock) (*org, error) {
	o := &org{id: id, rights: c.Rights, key: c.Key}
	var pack, zone string
	if err := q.QueryRow(ctx, sqlSchema, id, c.SchemaVersion).Scan(&pack, &zone); err != nil {
		return nil, fmt.Errorf("syncengine.loadOrg schema %d: %w", c.SchemaVersion, err)
	}
	var err error
	if o.schema, err = schema.Parse([]byte(pack)); err != nil {
		return nil, fmt.Errorf("syncengine.loadOrg: %w", err)
	}
	o.schema.Version = c.SchemaVersion
	if o.zone, err = time.LoadLocation(zone); err != nil {
		return nil, fmt.Errorf("syncengine.loadOrg: %w", err)
	}
	rows, err := q.Query(ctx, sqlPeople, id)
	if err != nil {
		return nil, err
	}
	people, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (p access.Person, err error) {
		err = r.Scan(&p.ID, &p.Name, &p.Team, &p.Roles, &p.Disabled)
		return p, err
	})
	if err != nil {
		return nil, err
	}
	rows, err = q.Query(ctx, sqlTeams, id)
	if err != nil {
		return nil, err
	}
	parents := map[satchel.ID]satchel.ID{}
	var team, parent satchel.ID
	if _, err = pgx.ForEachRow(rows, []any{&team, &parent}, func() error {
		parents[team] = parent
		return nil
	}); err != nil {
		return nil, err
	}
	o.dir = access.NewDirectory(c.Rights, people, parents)
	return o, nil
}

// orgNow reads the clock, and gives the organisation as it stands at it.
func (e *Engine) orgNow(ctx context.Context, q querier, id satchel.ID) (*org, clock, error) {
	c, err := readClock(ctx, q, id)
	if err != nil {
		return nil, c, err
	}
	o, err := e.org(ctx, q, id, c)
	return o, c, err
}

// Org gives an organisation's schema and directory as they stand now.
func (e *Engine) Org(ctx context.Context, id satchel.ID) (*schema.Schema, *access.Directory, error) {
	o, _, err := e.orgNow(ctx, e.cfg.Pool, id)
	if err != nil {
		return nil, nil, err
	}
	return o.schema, o.dir, nil
}

// Grants gives what a principal may do now.
func (e *Engine) Grants(ctx context.Context, p *satchel.Principal) (*access.Grants, error) {
	o, _, err := e.orgNow(ctx, e.cfg.Pool, p.Org)
	if err != nil {
		return nil, err
	}
	return e.grantsOf(o, o.roles(p.Person)), nil
}

// roles gives the roles that a person has at this count of rights, whatever the caller read before: S6. Somebody
// unknown or disabled has none.
func (o *org) roles(person satchel.ID) []string {
	if p, known := o.dir.Person(person); known && !p.Disabled {
		return p.Roles
	}
	return nil
}

func readClock(ctx context.Context, q querier, id satchel.ID) (clock, error) {
	var c clock
	err := c.scan(q.QueryRow(ctx, sqlClock, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return c, satchel.E(satchel.NotFound, satchel.ReasonNotFound, "no such organisation")
	}
	return c, err
}

// grantsEntry keeps the grants of one set of roles under one schema.
type grantsEntry struct {
	schema *schema.Schema
	grants *access.Grants
}

func (e *Engine) grantsOf(o *org, roles []string) *access.Grants {
	key := o.id.String() + "/" + strings.Join(roles, ",")
	e.mu.Lock()
	defer e.mu.Unlock()
	if g := e.grants[key]; g != nil && g.schema == o.schema {
		return g.grants
	}
	g := &grantsEntry{o.schema, access.NewGrants(o.schema, roles)}
	put(e.grants, key, g)
	return g.grants
}

// OrgCreated gives a new organisation its clock and the schema that ships with the binary.
func (e *Engine) OrgCreated(ctx context.Context, tx pgx.Tx, id satchel.ID) error {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("syncengine.OrgCreated: %w", err)
	}
	if _, err := tx.Exec(ctx, sqlNewClock, id, key); err != nil {
		return fmt.Errorf("syncengine.OrgCreated: %w", err)
	}
	if _, err := tx.Exec(ctx, sqlNewSchema, id, 1, string(schema.DefaultPack()), e.cfg.Now()); err != nil {
		return err
	}
	return e.cfg.Jobs.Enqueue(ctx, tx, tidyJob(id, e.cfg.Now().Add(tidyEvery)))
}

// PublishSchema makes a new version of an organisation's schema current. The pack is checked first; the error says
// what is wrong with it.
func (e *Engine) PublishSchema(ctx context.Context, id satchel.ID, pack []byte) (version int, err error) {
	s, err := schema.Parse(pack)
	if err != nil {
		return 0, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "%v", err)
	}
	if p := keepsAttentions(s); p != "" {
		return 0, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "%s", p)
	}
	old, _, err := e.Org(ctx, id)
	if err != nil {
		return 0, pg.ToError(err)
	}
	if p := takesAway(old, s); p != "" {
		return 0, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "%s", p)
	}
	err = e.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, sqlNextSchema, id).Scan(&version); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, sqlNewSchema, id, version, string(pack), e.cfg.Now()); err != nil {
			return err
		}
		return e.cfg.Jobs.Enqueue(ctx, tx, upgradedJob(id))
	})
	if err == nil {
		e.waiters.WakeOrg(id)
	}
	return version, err
}

// takesAway says what a new version lacks of the old one; "" = nothing. Records keep the values of a field that the
// schema no longer has, and no role could hide them; values of another type fit no check or merge. Until lenses
// archive fields and convert values, neither is published.
func takesAway(old, next *schema.Schema) string {
	for _, name := range old.Profiles() {
		if next.Profile(name) == nil {
			return fmt.Sprintf("the profile %s is gone; keep it: devices that follow by it could pull no longer", name)
		}
	}
	for _, name := range old.Kinds() {
		k := next.Kind(name)
		if k == nil {
			return fmt.Sprintf("the kind %s is gone; keep it, and take its rights away instead", name)
		}
		for _, f := range old.Kind(name).Fields() {
			switch g := k.Field(f.Name); {
			case g == nil:
				return fmt.Sprintf("the field %s.%s is gone; keep it, and hide it from every role instead", name, f.Name)
			case g.Type != f.Type:
				return fmt.Sprintf("the field %s.%s was of type %s; keep that, and add a field of another name", name, f.Name, f.Type)
			}
		}
	}
	return ""
}

// keepsAttentions says what a schema lacks to keep what is refused and what loses (S5, S8); "" = nothing.
func keepsAttentions(s *schema.Schema) string {
	k := s.Kind(attentionKind)
	if k == nil {
		return "the pack has no kind attention; without it what is refused has no place: copy it from the default pack"
	}
	fields := map[string]any{"person": satchel.NewID().String(), "record": satchel.NewID().String(), "record_kind": "account",
		"cause": "refused", "reason": "INVALID", "open": true, "items": []any{}}
	if p := k.CheckFields(fields); p != nil {
		return fmt.Sprintf("the kind attention cannot hold what the engine keeps in it: %s %v", p.Detail, p.Paths)
	}
	if p := k.Invalid(fields); p != nil {
		return fmt.Sprintf("the kind attention asks for more than the engine gives it: %s %v", p.Detail, p.Paths)
	}
	return ""
}

// RightsChanged counts a change of roles, teams or grants, in the transaction that makes it: commits that checked the
// rights of before fail and are done again.
func (e *Engine) RightsChanged(ctx context.Context, tx pgx.Tx, id satchel.ID) error {
	_, err := tx.Exec(ctx, sqlRightsChanged, id)
	return err
}

// directoryArgs names what changed in the directory.
type directoryArgs struct {
	Persons, Teams []satchel.ID
}

// DirectoryChanged enqueues, in the transaction that changed people or teams, the job that mirrors them into records
// and moves what must move. Only after the commit does it look: all later commits place by the new rights.
func (e *Engine) DirectoryChanged(ctx context.Context, tx pgx.Tx, id satchel.ID, persons, teams []satchel.ID) error {
	var js []jobs.Job
	for chunk := range slices.Chunk(persons, 100) {
		js = append(js, jobs.Job{Kind: JobDirectory, Org: id, Args: directoryArgs{Persons: chunk}})
	}
	for chunk := range slices.Chunk(teams, 100) {
		js = append(js, jobs.Job{Kind: JobDirectory, Org: id, Args: directoryArgs{Teams: chunk}})
	}
	if len(js) == 0 {
		return nil
	}
	return e.cfg.Jobs.Enqueue(ctx, tx, js...)
}
