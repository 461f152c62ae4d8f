package pg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The limits that every connection carries, so that a dead or stuck replica holds nobody for long.
const (
	LockTimeout      = 2 * time.Second
	StatementTimeout = 10 * time.Second
	IdleTxTimeout    = 5 * time.Second
	CommitTimeout    = 30 * time.Second
	connectTimeout   = 5 * time.Second
)

// Options say how to open a pool. The zero value is right for development.
type Options struct {
	// MaxConns bounds the pool; 0 means 10.
	MaxConns int32
	// AppName is shown in pg_stat_activity; "" means "satchel".
	AppName string
	// PgBouncer says that between here and Postgres stands PgBouncer in transaction mode: no statement is prepared by
	// name, and the limits are set inside each [Tx] rather than once per connection. A statement outside a
	// transaction then has the limits that the role has (ALTER ROLE … SET lock_timeout …).
	PgBouncer bool
	// CommitTimeout is how long a COMMIT is waited for where the caller's context has no deadline: no limit of Postgres'
	// bounds the wait for a standby. 0 means 30 s. Then the commit's fate is unknown.
	CommitTimeout time.Duration
	// OnConnect, where not nil, runs on every new connection before anything else; its error closes the connection. It has
	// 5 s.
	OnConnect func(ctx context.Context, conn *pgx.Conn) error
	// Dial replaces the way to the server; nil means TCP with keep-alives, or a Unix socket.
	Dial pgconn.DialFunc
}

// ErrPooled means that something between here and Postgres gives connections to many and drops or refuses their
// settings, as PgBouncer does, and that nobody said so in [Options].
var ErrPooled = errors.New("pg: the way to Postgres leads through a pooler such as PgBouncer, which does not keep a connection's settings")

// Open makes a pool and proves by one question that the server answers and that the limits hold there. Its errors are
// for an operator and do not contain the password. [ErrPooled] is one of them.
func Open(ctx context.Context, url string, o Options) (*pgxpool.Pool, error) {
	cfg, err := Config(url, o)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("pg: cannot make a pool: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := probe(ctx, pool, o); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// probe asks the server for a limit that each connection brings along. A pooler refuses it (08P01, by its name, before
// anything else), or swallows it where its operator told it to, and would go on to mix up prepared statements.
func probe(ctx context.Context, pool *pgxpool.Pool, o Options) error {
	const ask = `-- pg.probe
select setting from pg_settings where name = 'lock_timeout'`
	if o.PgBouncer {
		if err := pool.Ping(ctx); err != nil {
			return fmt.Errorf("pg: the database does not answer: %w", err)
		}
		return nil
	}
	var limit string
	err := pool.QueryRow(ctx, ask, pgx.QueryExecModeExec).Scan(&limit)
	refused, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case ok && refused.Code == "08P01" && strings.Contains(refused.Message, "startup parameter"):
		return fmt.Errorf("%w: %w", ErrPooled, err)
	case err != nil:
		return fmt.Errorf("pg: the database does not answer: %w", err)
	case limit != millis(LockTimeout):
		return ErrPooled
	}
	return nil
}

// Config gives what [Open] opens, for callers that change more of it.
func Config(url string, o Options) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("pg: the database URL does not parse: %w", err)
	}
	cfg.MaxConns = o.MaxConns
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = 10
	}
	cfg.MaxConnLifetime = time.Hour
	cfg.MaxConnLifetimeJitter = 10 * time.Minute
	c := cfg.ConnConfig
	c.ConnectTimeout = connectTimeout
	c.DialFunc = o.Dial
	if c.DialFunc == nil {
		d := &net.Dialer{Timeout: connectTimeout, KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
		c.DialFunc = d.DialContext
	}
	c.RuntimeParams["application_name"] = "satchel"
	if o.AppName != "" {
		c.RuntimeParams["application_name"] = o.AppName
	}
	limits := ""
	if o.PgBouncer {
		c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		limits = "select set_config('lock_timeout', '" + millis(LockTimeout) + "', true)" +
			", set_config('statement_timeout', '" + millis(StatementTimeout) + "', true)" +
			", set_config('idle_in_transaction_session_timeout', '" + millis(IdleTxTimeout) + "', true)"
	} else {
		c.RuntimeParams["lock_timeout"] = millis(LockTimeout)
		c.RuntimeParams["statement_timeout"] = millis(StatementTimeout)
		c.RuntimeParams["idle_in_transaction_session_timeout"] = millis(IdleTxTimeout)
		// The server's side of the keep-alives: a vanished replica's locks go within half a minute.
		c.RuntimeParams["tcp_keepalives_idle"] = "15"
		c.RuntimeParams["tcp_keepalives_interval"] = "5"
		c.RuntimeParams["tcp_keepalives_count"] = "3"
	}
	c.OnNotice = keepWarning
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		registerID(conn.TypeMap())
		conn.PgConn().CustomData()[stateKey] = &connState{limits: limits, commit: o.CommitTimeout}
		if o.OnConnect == nil {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, connectTimeout) // the pool gives it no deadline, whoever waits for it
		defer cancel()
		return o.OnConnect(ctx, conn)
	}
	return cfg, nil
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// connState is what this package remembers beside a connection. Only the goroutine that holds the connection touches
// it: pgconn calls OnNotice while that goroutine reads.
type connState struct {
	limits  string         // a statement that each transaction begins with, "" for none
	commit  time.Duration  // Options.CommitTimeout
	warning *pgconn.Notice // the last warning that can mean an uncertain commit
}

const stateKey = "satchel"

func stateOf(c *pgx.Conn) *connState {
	s, _ := c.PgConn().CustomData()[stateKey].(*connState)
	if s == nil { // a pool that was not made by Config: no limits, and warnings are not seen
		s = &connState{}
	}
	return s
}

// keepWarning notes the warnings with which Postgres says that a wait for a standby was cut short: the commit is on
// this server's disk and may be nowhere else.
func keepWarning(c *pgconn.PgConn, n *pgconn.Notice) {
	if n.SeverityUnlocalized != "WARNING" || (n.Code != "01000" && n.Code != "57P01") {
		return
	}
	if s, ok := c.CustomData()[stateKey].(*connState); ok {
		s.warning = n
	}
}
