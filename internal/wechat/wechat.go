package wechat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/satchel-sync/satchel"
)

// Official is WeChat's own address.
const Official = "https://api.weixin.qq.com"

// The bounds of one question.
const (
	patience  = 5 * time.Second
	maxAnswer = 64 << 10
)

// Config is how to reach a mini-program. AppID and Secret are required.
type Config struct {
	AppID  string
	Secret string
	// API replaces WeChat's address, such as "http://127.0.0.1:9099"; "" = [Official].
	API string
	// Logger hears when WeChat refuses our account; nil = nobody does.
	Logger *slog.Logger
}

// Client asks WeChat. It is safe for concurrent use.
type Client struct {
	cfg  Config
	http *http.Client
}

// New makes a client; it asks nobody yet.
func New(cfg Config) (*Client, error) {
	if cfg.AppID == "" || cfg.Secret == "" {
		return nil, errors.New("wechat.New: AppID and Secret are needed")
	}
	if cfg.API == "" {
		cfg.API = Official
	}
	u, err := url.Parse(cfg.API)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" {
		return nil, errors.New("wechat.New: API is an address such as " + Official)
	}
	cfg.API = strings.TrimRight(cfg.API, "/")
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true // or net/http asks again by itself when a kept connection breaks, and the code is used up
	return &Client{cfg: cfg, http: &http.Client{
		Transport: t, Timeout: patience,
		// The secret stands in the address: it goes nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// AppID is the mini-program's id.
func (c *Client) AppID() string { return c.cfg.AppID }

// Exchange asks who the user is that wx.login gave the code to (code2session). WeChat takes a code once, within 5
// minutes. unionID is "" where the mini-program is bound to no open platform. Errors: WECHAT_CODE (40029, 40163),
// RATE_LIMITED (45011: more than 100 times a minute for a user), WECHAT_BLOCKED (40226), WECHAT_DOWN (-1, no answer, or
// one that is none of WeChat's), WECHAT_OFF (every other code: our app id or secret is wrong, or the mini-program was
// closed; the log says which code).
func (c *Client) Exchange(ctx context.Context, code string) (openID, unionID string, err error) {
	query := url.Values{"appid": {c.cfg.AppID}, "secret": {c.cfg.Secret}, "js_code": {code}, "grant_type": {"authorization_code"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.cfg.API+"/sns/jscode2session?"+query.Encode(), nil)
	if err != nil {
		return "", "", errors.New("wechat: the question cannot be written") // the cause would quote the secret
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // without the address, which has the secret
		}
		return "", "", down(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", "", down(err)
	}
	var answer struct {
		OpenID  string `json:"openid"`
		UnionID string `json:"unionid"`
		Code    int    `json:"errcode"`
	}
	switch err := json.Unmarshal(body, &answer); {
	case resp.StatusCode != http.StatusOK:
		return "", "", down(fmt.Errorf("status %d", resp.StatusCode))
	case err != nil:
		return "", "", down(errors.New("the answer is no JSON"))
	case answer.Code != 0:
		return "", "", c.refused(ctx, answer.Code)
	case answer.OpenID == "" || len(answer.OpenID) > 128 || len(answer.UnionID) > 128:
		return "", "", down(errors.New("the answer names no user"))
	}
	return answer.OpenID, answer.UnionID, nil
}

func down(err error) error {
	return &satchel.Error{Kind: satchel.Unavailable, Reason: satchel.ReasonWeChatDown, Err: fmt.Errorf("wechat: %w", err),
		Detail: "WeChat does not answer. Call wx.login again in a moment."}
}

// refused sorts WeChat's codes by what is to be done about them.
func (c *Client) refused(ctx context.Context, code int) error {
	switch code {
	case -1:
		return down(errors.New("code -1: busy"))
	case 40029, 40163: // unknown or too old; used before
		return satchel.E(satchel.Unauthenticated, satchel.ReasonWeChatCode, "WeChat does not take this code (%d). Call wx.login again and send the new one.", code)
	case 45011:
		return &satchel.Error{Kind: satchel.Exhausted, Reason: satchel.ReasonRateLimited, RetryAfter: time.Minute,
			Detail: "This WeChat user signs in too often. Wait a minute, then call wx.login again."}
	case 40226:
		return satchel.E(satchel.Denied, satchel.ReasonWeChatBlocked, "WeChat blocks this user as a risk. Sign in with login and password.")
	}
	c.cfg.Logger.ErrorContext(ctx, "wechat: our mini-program is refused; look at its app id and secret", "code", code)
	return satchel.E(satchel.Precondition, satchel.ReasonWeChatOff, "WeChat refuses this server's mini-program (%d). Sign in with login and password; the operator looks at the log.", code)
}
