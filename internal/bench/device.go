package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/gzip"
	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/gen/satchel/v1/satchelv1connect"
	"github.com/satchel-sync/satchel/internal/bench/dataset"
)

const (
	callTimeout = 30 * time.Second
	maxCalls    = 10_000 // of one pull
)

// meter counts what passes over a device's connections, headers and all, and of that the bodies as they travel.
type meter struct{ sent, received, bodies atomic.Int64 }

// bodyMeter counts bodies as they travel.
type bodyMeter struct {
	http.RoundTripper
	m *meter
}

// RoundTrip counts both bodies while they are read.
func (b bodyMeter) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r = r.Clone(r.Context())
		r.Body = meteredBody{r.Body, b.m}
	}
	res, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		res.Body = meteredBody{res.Body, b.m}
	}
	return res, err
}

type meteredBody struct {
	io.ReadCloser
	m *meter
}

func (b meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.m.bodies.Add(int64(n))
	return n, err
}

type meteredConn struct {
	net.Conn
	m *meter
}

func (c meteredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.m.received.Add(int64(n))
	return n, err
}

func (c meteredConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.m.sent.Add(int64(n))
	return n, err
}

// httpClient keeps one HTTP/1.1 connection, as a phone does.
func httpClient(m *meter) *http.Client {
	dialer := &net.Dialer{Timeout: callTimeout}
	transport := &http.Transport{
		DisableCompression: true, MaxConnsPerHost: 1,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return meteredConn{conn, m}, nil
		},
	}
	return &http.Client{Timeout: callTimeout, Transport: bodyMeter{transport, m}}
}

// CloseIdleConnections lets http.Client close them.
func (b bodyMeter) CloseIdleConnections() { b.RoundTripper.(*http.Transport).CloseIdleConnections() }

// device is a phone that keeps nothing but its place. It belongs to one goroutine.
type device struct {
	meter  meter
	http   *http.Client
	sync   satchelv1connect.SyncServiceClient
	token  string
	person satchel.ID
	cursor []byte
	next   uint64 // number of the next mutation
}

// options make the client of a phone: plain neither asks for compressed answers nor sends any.
func options(zip bool) []connect.ClientOption {
	if !zip {
		return []connect.ClientOption{connect.WithAcceptCompression("gzip", nil, nil)}
	}
	return []connect.ClientOption{
		// Phones unpack natively; the standard library's reader would be the slowest part of the measurement.
		connect.WithAcceptCompression("gzip", func() connect.Decompressor { return new(gzip.Reader) },
			func() connect.Compressor { return gzip.NewWriter(io.Discard) }),
		connect.WithSendGzip(), connect.WithCompressMinBytes(512),
	}
}

// signIn opens a session on a new device.
func signIn(ctx context.Context, base, org, login string, zip bool) (*device, error) {
	d := &device{next: 1}
	d.http = httpClient(&d.meter)
	d.sync = satchelv1connect.NewSyncServiceClient(d.http, base, options(zip)...)
	in := &satchelv1.SignInRequest{Org: org, Login: login, Password: dataset.Password,
		Device: &satchelv1.DeviceInfo{Installation: satchel.NewID().String(), Name: "bench", Platform: "bench", AppVersion: "1"}}
	out, err := satchelv1connect.NewAuthServiceClient(d.http, base).SignIn(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("bench: %s cannot sign in: %w", login, err)
	}
	d.token = out.Tokens.AccessToken
	d.person, err = satchel.ParseID(out.PersonId)
	return d, err
}

func (d *device) close() { d.http.CloseIdleConnections() }

// call is one Sync.
func (d *device) call(ctx context.Context, in *satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
	ctx, info := connect.NewClientContext(ctx)
	info.RequestHeader().Set("Authorization", "Bearer "+d.token)
	return d.sync.Sync(ctx, in)
}

// pulled is what a pull brought.
type pulled struct {
	calls, rows, visits int
	bytes               int64 // of the rows' fields
}

// pull calls until the device is at a checkpoint. Rows that came count; nothing is stored.
func (d *device) pull(ctx context.Context, maxBytes uint32) (pulled, error) {
	var p pulled
	for p.calls < maxCalls {
		out, err := d.call(ctx, &satchelv1.SyncRequest{Cursor: d.cursor, MaxBytes: maxBytes})
		if err != nil {
			return p, err
		}
		p.calls++
		if out.Page == nil {
			return p, nil
		}
		for _, c := range out.Page.Changes {
			p.rows++
			p.bytes += int64(len(c.Fields))
			if c.Kind == "visit" && len(c.Fields) > 0 && len(c.Entered) > 0 {
				p.visits++
			}
		}
		if len(out.Page.Cursor) > 0 {
			d.cursor = out.Page.Cursor
		}
		if !out.Page.More {
			if !out.Page.Checkpoint {
				return p, errors.New("bench: the last page is no checkpoint")
			}
			return p, nil
		}
	}
	return p, errors.New("bench: a pull does not end")
}

// floorReader reads the floor's rows. It belongs to one goroutine.
type floorReader struct {
	conn net.Conn
	r    *bufio.Reader
	buf  []byte
}

func dialFloor(ctx context.Context, addr string) (*floorReader, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &floorReader{conn: conn, r: bufio.NewReaderSize(conn, 64<<10)}, nil
}

func (f *floorReader) close() { _ = f.conn.Close() }

// read asks for a team's rows behind after.
func (f *floorReader) read(team satchel.ID, after int64) (pulled, error) {
	if err := f.conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return pulled{}, err
	}
	p := pulled{calls: 1}
	if _, err := f.conn.Write(binary.BigEndian.AppendUint64(team[:], uint64(after))); err != nil {
		return p, err
	}
	for {
		var head [4]byte
		if _, err := io.ReadFull(f.r, head[:]); err != nil {
			return p, err
		}
		n := int(binary.BigEndian.Uint32(head[:]))
		if n == 0 {
			return p, nil
		}
		if n > cap(f.buf) {
			f.buf = make([]byte, n)
		}
		f.buf = f.buf[:n]
		if _, err := io.ReadFull(f.r, f.buf); err != nil {
			return p, err
		}
		page := &satchelv1.Page{}
		if err := proto.Unmarshal(f.buf, page); err != nil {
			return p, err
		}
		for _, c := range page.Changes {
			p.rows++
			p.visits++
			p.bytes += int64(len(c.Fields))
		}
	}
}
