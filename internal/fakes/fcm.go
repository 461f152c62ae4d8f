package fakes

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// FCMAnswer is one scripted answer; the zero value takes the message.
type FCMAnswer struct {
	Status     int    // HTTP status; 0 = 200
	Code       string // of the FcmError detail, such as UNREGISTERED; "" = an error without that detail
	RetryAfter int    // seconds; 0 = no header
	Drop       bool   // take the message and break the connection without an answer
}

// FCMMessage is a message as it came in.
type FCMMessage struct {
	Project string
	Token   string
	Body    string // what the phone would show
	Data    map[string]string
	Status  int // that it was answered with; 0 = the connection was broken
}

// FCM is a scripted server of the HTTP v1 API of Firebase Cloud Messaging. It is safe for concurrent use.
type FCM struct {
	srv  *http.Server
	addr string

	mu       sync.Mutex
	messages []FCMMessage
	next     []FCMAnswer
	byToken  map[string]FCMAnswer
}

// maxFCMMessages bounds what is kept; older messages are forgotten.
const maxFCMMessages = 10_000

// StartFCM starts a server on a free port of the loopback interface. The caller closes it.
func StartFCM() (*FCM, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("fakes.StartFCM: %w", err)
	}
	f := &FCM{addr: l.Addr().String(), byToken: map[string]FCMAnswer{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/projects/{project}/{verb}", f.send)
	f.srv = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	go func() { _ = f.srv.Serve(l) }() // ends with Close
	return f, nil
}

// Endpoint is what a client is pointed at.
func (f *FCM) Endpoint() string { return "http://" + f.addr + "/v1" }

// Close ends the server and its connections.
func (f *FCM) Close() error { return f.srv.Close() }

// Script sets the answers to the next messages, one each; behind them come those of [FCM.Answer], then 200.
func (f *FCM) Script(answers ...FCMAnswer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = slices.Clone(answers)
}

// Answer sets what every message to a token is answered with.
func (f *FCM) Answer(token string, a FCMAnswer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.byToken[token] = a
}

// Messages gives what came in, oldest first, whatever it was answered with.
func (f *FCM) Messages() []FCMMessage {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.messages)
}

func (f *FCM) send(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Message struct {
			Token        string
			Data         map[string]string
			Notification struct{ Body string }
		}
	}
	if r.PathValue("verb") != "messages:send" {
		http.NotFound(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err == nil {
		err = json.Unmarshal(body, &in)
	}
	if err != nil || in.Message.Token == "" {
		fcmError(w, FCMAnswer{Status: http.StatusBadRequest, Code: "INVALID_ARGUMENT"})
		return
	}
	a := f.record(FCMMessage{Project: r.PathValue("project"), Token: in.Message.Token, Body: in.Message.Notification.Body, Data: in.Message.Data})
	switch {
	case a.Drop:
		panic(http.ErrAbortHandler)
	case a.Status == http.StatusOK:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"name": "projects/" + r.PathValue("project") + "/messages/1"})
	default:
		fcmError(w, a)
	}
}

// record keeps a message and gives its answer.
func (f *FCM) record(m FCMMessage) FCMAnswer {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.byToken[m.Token]
	if len(f.next) > 0 {
		a, f.next = f.next[0], f.next[1:]
	}
	if a.Status == 0 {
		a.Status = http.StatusOK
	}
	if m.Status = a.Status; a.Drop {
		m.Status = 0
	}
	f.messages = append(f.messages, m)
	f.messages = f.messages[max(len(f.messages)-maxFCMMessages, 0):]
	return a
}

// fcmError writes an error in the service's form.
func fcmError(w http.ResponseWriter, a FCMAnswer) {
	platform := map[int]string{400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
		429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}
	e := map[string]any{"code": a.Status, "message": "scripted", "status": platform[a.Status]}
	if a.Code != "" {
		e["details"] = []any{map[string]string{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": a.Code}}
	}
	w.Header().Set("Content-Type", "application/json")
	if a.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(a.RetryAfter))
	}
	w.WriteHeader(a.Status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": e})
}
