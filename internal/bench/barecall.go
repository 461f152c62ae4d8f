package bench

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/bench/rawhttp"
)

// calls opens connections for the floor's calls that wait.
func (l *lab) calls(ctx context.Context) (conns []*rawhttp.Conn, err error) {
	for range l.mode.Waiters {
		c, err := rawhttp.Dial(ctx, l.floor.HTTP)
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

// answer lets a bare call wait on each connection, and answers them all.
func (l *lab) answer(ctx context.Context, conns []*rawhttp.Conn) ([]float64, error) {
	body, err := proto.Marshal(&satchelv1.WaitRequest{Cursor: []byte("x")})
	if err != nil {
		return nil, err
	}
	for _, c := range conns {
		if err := c.Deadline(time.Now().Add(settleTime)); err != nil {
			return nil, err
		}
		if err := c.Send(waitPath, "", body); err != nil {
			return nil, err
		}
	}
	if err := poll(ctx, "all calls wait", func() (bool, error) {
		var n int
		err := l.floor.ask(ctx, "waiting", &n)
		return n == len(conns), err
	}); err != nil {
		return nil, err
	}
	if err := l.floor.still(ctx); err != nil {
		return nil, err
	}
	return arrivals(conns, func() (time.Time, error) {
		var ns int64
		err := l.floor.ask(ctx, "wake", &ns)
		return time.Unix(0, ns), err
	}, woken)
}
