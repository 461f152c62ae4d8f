package push

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	firebase "firebase.google.com/go/v4"
	"firebase.google.com/go/v4/messaging"
	"google.golang.org/api/option"
	transport "google.golang.org/api/transport/http"
)

// FCMKind is the kind of addresses that are registration tokens of Firebase Cloud Messaging.
const FCMKind = "fcm"

// fcmScope is the right that our account needs.
const fcmScope = "https://www.googleapis.com/auth/firebase.messaging"

// FCMConfig says where and as whom to send.
type FCMConfig struct {
	// ProjectID is the Firebase project. Required.
	ProjectID string
	// CredentialsFile is the path of a service account's JSON key. "" = requests carry no credentials, which only a
	// scripted server accepts, so Endpoint is required then.
	CredentialsFile string
	// Endpoint replaces the service's address, such as "http://127.0.0.1:9099/v1". "" = the real one.
	Endpoint string
}

// FCM is the channel of Firebase Cloud Messaging. It does not reach most Android phones in mainland China.
type FCM struct{ client *messaging.Client }

// NewFCM makes the channel; it talks to nobody yet, but reads the credentials file.
func NewFCM(ctx context.Context, cfg FCMConfig) (*FCM, error) {
	if cfg.ProjectID == "" || cfg.CredentialsFile == "" && cfg.Endpoint == "" {
		return nil, errors.New("push.NewFCM: ProjectID and CredentialsFile are needed (or Endpoint, for a scripted server)")
	}
	var next http.RoundTripper = http.DefaultTransport.(*http.Transport).Clone()
	if cfg.CredentialsFile != "" {
		var err error
		if next, err = transport.NewTransport(ctx, next, option.WithScopes(fcmScope),
			option.WithAuthCredentialsFile(option.ServiceAccount, cfg.CredentialsFile)); err != nil {
			return nil, err
		}
	}
	opts := []option.ClientOption{option.WithHTTPClient(&http.Client{Transport: once{next}})}
	if cfg.Endpoint != "" {
		opts = append(opts, option.WithEndpoint(cfg.Endpoint))
	}
	app, err := firebase.NewApp(ctx, &firebase.Config{ProjectID: cfg.ProjectID}, opts...)
	if err != nil {
		return nil, err
	}
	client, err := app.Messaging(ctx)
	if err != nil {
		return nil, err
	}
	return &FCM{client: client}, nil
}

// exchange is what once saw of one send.
type exchange struct {
	status     int // 0 = no answer came
	retryAfter time.Duration
}

type exchangeKey struct{}

// Send is [Sender]'s.
func (f *FCM) Send(ctx context.Context, m Message) Result {
	x := &exchange{}
	ttl := MaxAge
	_, err := f.client.Send(context.WithValue(ctx, exchangeKey{}, x), &messaging.Message{
		Token: m.Address, Data: m.Data, Notification: &messaging.Notification{Body: m.Text},
		Android: &messaging.AndroidConfig{Priority: "high", TTL: &ttl},
	})
	return x.classify(err)
}

// classify sorts an answer. Only the service's own word that the token is unknown makes an address dead: a bare 404 is a
// wrong project or endpoint.
func (x *exchange) classify(err error) Result {
	switch {
	case err == nil:
		return Result{Answer: Sent}
	case messaging.IsUnregistered(err):
		return Result{Answer: AddressDead, Code: "UNREGISTERED"}
	case messaging.IsSenderIDMismatch(err):
		return Result{Answer: Misconfigured, Code: "SENDER_ID_MISMATCH"}
	case messaging.IsThirdPartyAuthError(err):
		return Result{Answer: Misconfigured, Code: "THIRD_PARTY_AUTH_ERROR"}
	case messaging.IsInvalidArgument(err), x.status == http.StatusBadRequest:
		return Result{Answer: BadPayload, Code: "INVALID_ARGUMENT"}
	case messaging.IsQuotaExceeded(err), x.status == http.StatusTooManyRequests:
		return Result{Answer: RetryLater, RetryAfter: x.retryAfter, Code: "QUOTA_EXCEEDED"}
	case x.status == http.StatusUnauthorized, x.status == http.StatusForbidden, x.status == http.StatusNotFound:
		return Result{Answer: Misconfigured, Code: strconv.Itoa(x.status)}
	}
	return Result{Answer: RetryLater, RetryAfter: x.retryAfter, Code: strconv.Itoa(x.status)}
}

// once keeps the library from trying again by itself, which it does on 503 and on every failure of the network, with
// pauses inside the call and no memory of it: deliveries are retried from the database. It notes what it saw and gives
// the library an answer that it takes as final.
type once struct{ next http.RoundTripper }

// RoundTrip is http.RoundTripper's.
func (o once) RoundTrip(req *http.Request) (*http.Response, error) {
	x, ok := req.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		return o.next.RoundTrip(req)
	}
	resp, err := o.next.RoundTrip(req)
	if err == nil {
		// All of the answer is read here, or a connection that breaks in its middle would be tried again.
		var body []byte
		body, err = io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		_ = resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(body))
	}
	if err != nil {
		return &http.Response{StatusCode: http.StatusInternalServerError, Status: "500 no answer", Proto: "HTTP/1.1", ProtoMajor: 1,
			ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
	}
	x.status, x.retryAfter = resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"))
	if resp.StatusCode == http.StatusServiceUnavailable {
		resp.StatusCode = http.StatusInternalServerError
	}
	return resp, nil
}

// retryAfter reads the header: seconds, or an HTTP date; 0 = it says nothing.
func retryAfter(value string) time.Duration {
	if s, err := strconv.Atoi(value); err == nil {
		return time.Duration(max(min(s, 86400), 0)) * time.Second
	}
	if t, err := http.ParseTime(value); err == nil {
		return max(time.Until(t), 0)
	}
	return 0
}
