package rawhttp

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
)

// MaxBody bounds what is read of an answer.
const MaxBody = 16 << 20

// Status is an answer that is not 200. Body is Connect's error as JSON, where the server speaks Connect.
type Status struct {
	Code       int
	RetryAfter time.Duration // 0 = not said
	Body       string
}

// Error names the code and what the server said.
func (s *Status) Error() string { return fmt.Sprintf("HTTP %d: %s", s.Code, s.Body) }

// Conn is an HTTP/1.1 connection for one request after the other, or for one stream. It belongs to one goroutine.
type Conn struct {
	net  net.Conn
	r    *bufio.Reader
	host string
	out  []byte
}

// Dial connects to base, http://host:port.
func Dial(ctx context.Context, base string) (*Conn, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" {
		return nil, fmt.Errorf("rawhttp: %q is no http address", base)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	return &Conn{net: conn, r: bufio.NewReaderSize(conn, 2048), host: u.Host}, nil
}

// Close ends the connection.
func (c *Conn) Close() { _ = c.net.Close() }

// Deadline bounds what comes next; the zero time does not.
func (c *Conn) Deadline(t time.Time) error { return c.net.SetDeadline(t) }

// Send writes a call of a Connect procedure: path begins with a slash, body is the message in protobuf. No compressed
// answer is asked for. token "" = without a session.
func (c *Conn) Send(path, token string, body []byte) error {
	return c.send(path, token, "application/proto", body)
}

func (c *Conn) send(path, token, kind string, body []byte) error {
	b := c.out[:0]
	b = append(b, "POST "...)
	b = append(b, path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, c.host...)
	b = append(b, "\r\nConnect-Protocol-Version: 1\r\nContent-Type: "...)
	b = append(b, kind...)
	if token != "" {
		b = append(b, "\r\nAuthorization: Bearer "...)
		b = append(b, token...)
	}
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n\r\n"...)
	c.out = b[:0] // the head's room is kept; a large body does not stay
	buffers := net.Buffers{b, body}
	_, err := buffers.WriteTo(c.net)
	return err
}

// Arrived waits for the first byte of what comes and gives the moment.
func (c *Conn) Arrived() (time.Time, error) {
	_, err := c.r.Peek(1)
	return time.Now(), err
}

// Answer reads the answer to a call. A *Status error leaves the connection usable, any other does not.
func (c *Conn) Answer() ([]byte, error) {
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, MaxBody+1))
	if err != nil {
		return nil, err
	}
	if len(body) > MaxBody {
		return nil, errors.New("rawhttp: the answer is too large")
	}
	if res.StatusCode != http.StatusOK {
		s := &Status{Code: res.StatusCode, Body: string(body[:min(len(body), 300)])}
		if n, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil {
			s.RetryAfter = time.Duration(n) * time.Second
		}
		if res.Close {
			return nil, errors.Join(s, net.ErrClosed)
		}
		return nil, s
	}
	return body, nil
}

// Call sends a message and reads the answer into out.
func (c *Conn) Call(path, token string, in, out proto.Message) error {
	body, err := proto.Marshal(in)
	if err != nil {
		return err
	}
	if err := c.Send(path, token, body); err != nil {
		return err
	}
	if body, err = c.Answer(); err != nil {
		return err
	}
	return proto.Unmarshal(body, out)
}

// Subscribe begins a server's stream of Connect, not compressed; [Conn.Next] reads it.
func (c *Conn) Subscribe(path string, in proto.Message) error {
	body, err := proto.Marshal(in)
	if err != nil {
		return err
	}
	if err := c.send(path, "", "application/connect+proto", append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)); err != nil {
		return err
	}
	chunked := false
	for first := true; ; first = false {
		line, err := c.line()
		if err != nil {
			return err
		}
		if first && !strings.HasPrefix(line, "HTTP/1.1 200") {
			return fmt.Errorf("rawhttp: the stream was refused: %s", line)
		}
		chunked = chunked || strings.EqualFold(line, "Transfer-Encoding: chunked")
		if line != "" {
			continue
		}
		if !chunked {
			return errors.New("rawhttp: a stream is chunked")
		}
		return nil
	}
}

// Next reads the next message of the stream. The server writes each as one chunk.
func (c *Conn) Next(out proto.Message) error {
	line, err := c.line()
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(line, 16, 32)
	if err != nil || n < 5 || n > MaxBody {
		return fmt.Errorf("rawhttp: %q is no chunk of a message", line)
	}
	chunk := make([]byte, n+2)
	if _, err := io.ReadFull(c.r, chunk); err != nil {
		return err
	}
	if flags, size := chunk[0], binary.BigEndian.Uint32(chunk[1:5]); flags != 0 || uint64(size) != n-5 {
		return errors.New("rawhttp: the chunk is not one uncompressed message")
	}
	return proto.Unmarshal(chunk[5:n], out)
}

func (c *Conn) line() (string, error) {
	line, err := c.r.ReadSlice('\n')
	return strings.TrimRight(string(line), "\r\n"), err
}
