package push

import (
	"context"
	"sync"
	"time"
)

// Message is one knock.
type Message struct {
	Address string
	Text    string            // what is shown; no customer data
	Data    map[string]string // for the app: notice, record, kind, msg_id
}

// Answer is what a channel said, sorted by what is to be done about it.
type Answer uint8

// The answers.
const (
	RetryLater    Answer = iota // the channel, or the way to it, is in trouble: the zero value, for the unknown
	Sent                        // the channel took it
	AddressDead                 // the channel does not know the address any more
	Misconfigured               // our account or credentials are wrong; the address is not to blame
	BadPayload                  // our message is wrong; sending it again is pointless
)

func (a Answer) String() string {
	return [...]string{"retry_later", "sent", "address_dead", "misconfigured", "bad_payload"}[min(int(a), 4)]
}

// Result is a channel's answer.
type Result struct {
	Answer
	RetryAfter time.Duration // with RetryLater: when the channel wants to be asked again; 0 = it did not say
	Code       string        // the channel's own word, for the log
}

// Sender is a channel. Send tries once, within ctx, and classifies what it is told; it must not try again by itself, for
// deliveries are retried from the database. It is safe for concurrent use.
type Sender interface {
	Send(ctx context.Context, m Message) Result
}

// The brake looks at the last brakeWindow answers of a channel once it has brakeMin of them.
const (
	brakeWindow = 50
	brakeMin    = 20
)

// brake keeps a fault of ours (a wrong project, a channel's own bug) from deleting everybody's addresses: while more
// than half of the last sends found a dead address, none is believed. Each process has its own, empty at its start.
type brake struct {
	mu   sync.Mutex
	last map[string][]bool // by channel, newest last: was the address dead
}

func newBrake() *brake { return &brake{last: map[string][]bool{}} }

// note adds an answer and tells whether the brake is on.
func (b *brake) note(kind string, dead bool) (on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	last := append(b.last[kind], dead)
	last = last[max(len(last)-brakeWindow, 0):]
	b.last[kind] = last
	n := 0
	for _, d := range last {
		if d {
			n++
		}
	}
	return len(last) >= brakeMin && 2*n > len(last)
}
