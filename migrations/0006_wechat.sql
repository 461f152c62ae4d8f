-- +goose Up

-- Signing in by WeChat. Times are the server's clock, given as parameters.

-- Which WeChat user of a mini-program is which person: one person for a WeChat user, one WeChat user for a person.
-- openid is WeChat's id of the user for this app, unionid the one for all apps of the company, where WeChat tells it.
-- The person proved it with a password: password_version says with which, and while the person's is another, the binding
-- holds no more. WeChat's session_key is never kept. Written by identity.
CREATE TABLE wechat_identity (
    org_id           uuid NOT NULL,
    app_id           text NOT NULL,
    openid           text NOT NULL,
    unionid          text,
    person_id        uuid NOT NULL,
    password_version bigint NOT NULL,
    bound_at         timestamptz NOT NULL,
    PRIMARY KEY (org_id, app_id, openid),
    UNIQUE (org_id, app_id, person_id),
    FOREIGN KEY (org_id, person_id) REFERENCES person (org_id, id)
);

-- Codes of wx.login that WeChat has taken, by the SHA-256 of app id, code and installation, for 5 minutes: WeChat takes
-- each only once, and the answer to the app may be lost. In Postgres, so that all replicas know. Codes for organisations that do
-- not exist are kept under one made-up org_id. Written by identity.
CREATE TABLE wechat_code (
    org_id  uuid NOT NULL,
    hash    bytea NOT NULL,
    openid  text NOT NULL,
    unionid text,
    used_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, hash)
);
CREATE INDEX wechat_code_by_age ON wechat_code (org_id, used_at);

-- What other packages may read of it: bindings that hold.
CREATE VIEW directory_wechat AS
    SELECT w.org_id, w.app_id, w.openid, w.person_id
    FROM wechat_identity w JOIN person p ON p.org_id = w.org_id AND p.id = w.person_id
    WHERE p.disabled_at IS NULL AND p.password_version = w.password_version;

-- One-time subscriptions: how many messages of a template a WeChat user still allows. WeChat tells nobody how many are
-- left, so this is the only count. last_key names the report that was counted last, so that it is counted once. Written
-- by push.
CREATE TABLE wechat_grant (
    org_id     uuid        NOT NULL,
    app_id     text        NOT NULL,
    openid     text        NOT NULL,
    template   text        NOT NULL,
    count      integer     NOT NULL CHECK (count BETWEEN 0 AND 100),
    last_key   uuid        NOT NULL,
    granted_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, app_id, openid, template)
);
