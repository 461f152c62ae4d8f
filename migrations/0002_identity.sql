-- +goose Up

-- Organisations, people, teams, devices and sessions. Package identity writes every table of this file; other packages
-- read the views at its end and nothing else. Times are the server's clock, given as parameters.

-- An organisation: the tenant that every org_id elsewhere names. slug is what people type when they sign in. While
-- closing_at is set nobody signs in and no token is accepted. The row is also the lock under which its directory changes.
-- Written by identity.
CREATE TABLE org (
    org_id     uuid PRIMARY KEY,
    slug       text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    name       text NOT NULL,
    time_zone  text NOT NULL DEFAULT 'Asia/Shanghai',
    created_at timestamptz NOT NULL,
    closing_at timestamptz
);

-- A node of an organisation's team tree; parent_id NULL is a root. That there is no cycle and no path longer than 16 is
-- kept by identity under the lock of the org row. Written by identity.
CREATE TABLE team (
    org_id     uuid NOT NULL REFERENCES org,
    id         uuid NOT NULL,
    parent_id  uuid,
    name       text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, id),
    FOREIGN KEY (org_id, parent_id) REFERENCES team (org_id, id)
);

-- Somebody who can sign in. login_fold is the login after NFKC and case folding, by which it is found and unique.
-- password_hash is argon2id with its parameters inside; NULL means that nobody signs in before a reset.
-- password_version counts the passwords, so that a sign-in that checked an older one does not open a session. People are
-- disabled, never deleted: records name them. Written by identity.
CREATE TABLE person (
    org_id           uuid NOT NULL REFERENCES org,
    id               uuid NOT NULL,
    login            text NOT NULL,
    login_fold       text NOT NULL CHECK (login_fold <> ''),
    display_name     text NOT NULL,
    team_id          uuid,
    roles            text[] NOT NULL,
    password_hash    text,
    password_version bigint NOT NULL DEFAULT 0,
    created_at       timestamptz NOT NULL,
    disabled_at      timestamptz,
    PRIMARY KEY (org_id, id),
    UNIQUE (org_id, login_fold),
    FOREIGN KEY (org_id, team_id) REFERENCES team (org_id, id)
);

-- An installation of the app on which one person signed in. It never changes hands: another person on the same phone is
-- another device. Revoked is for ever. Its queue of mutations is the engine's table lane. Written by identity.
CREATE TABLE device (
    org_id       uuid NOT NULL,
    id           uuid NOT NULL,
    person_id    uuid NOT NULL,
    installation text NOT NULL,
    name         text NOT NULL,
    platform     text NOT NULL,
    app_version  text NOT NULL,
    created_at   timestamptz NOT NULL,
    last_sign_in timestamptz NOT NULL,
    revoked_at   timestamptz,
    PRIMARY KEY (org_id, id),
    FOREIGN KEY (org_id, person_id) REFERENCES person (org_id, id)
);
CREATE INDEX device_by_person ON device (org_id, person_id, id);

-- The session of a device, from one sign-in to the next: only SHA-256 hashes of its tokens. access_hash and refresh_hash
-- are the newest pair, the only one that is valid. prev_refresh_hash is the refresh token that gave it, for the grace
-- after a lost answer; used_at says that the newest pair has been used, which ends the grace. rotation_salt is what that
-- pair was derived with, together with the older token, so that asking again gives the same pair; it is gone once the
-- pair was used. family_hash is of the part that all refresh tokens of one sign-in share: it tells an old token that
-- comes back from noise. A session that ended keeps its hashes, so that the device can be told why. Written by identity.
CREATE TABLE session (
    org_id             uuid NOT NULL,
    device_id          uuid NOT NULL,
    person_id          uuid NOT NULL,
    family_hash        bytea NOT NULL,
    access_hash        bytea NOT NULL,
    access_expires_at  timestamptz NOT NULL,
    refresh_hash       bytea NOT NULL,
    refresh_expires_at timestamptz NOT NULL,
    signed_in_at       timestamptz NOT NULL,
    used_at            timestamptz,
    prev_refresh_hash  bytea,
    rotated_at         timestamptz,
    rotation_salt      bytea,
    ended_at           timestamptz,
    ended_why          text CHECK (ended_why IN ('signed_out', 'password', 'disabled', 'revoked', 'replay')),
    PRIMARY KEY (org_id, device_id),
    FOREIGN KEY (org_id, device_id) REFERENCES device (org_id, id),
    FOREIGN KEY (org_id, person_id) REFERENCES person (org_id, id)
);
CREATE INDEX session_by_person ON session (org_id, person_id);

-- Password attempts that have not succeeded, by the SHA-256 of what they were counted on (a login, a known device, a
-- person). In Postgres, so that all replicas share the count. An attempt is counted before the password is looked at;
-- success deletes the row, and each failure deletes some rows that are too old to count. Attempts at organisations that
-- do not exist are counted under one made-up org_id. Written by identity.
CREATE TABLE sign_in_throttle (
    org_id        uuid NOT NULL,
    subject       bytea NOT NULL,
    attempts      integer NOT NULL,
    last_at       timestamptz NOT NULL,
    blocked_until timestamptz,
    PRIMARY KEY (org_id, subject)
);
CREATE INDEX sign_in_throttle_by_age ON sign_in_throttle (org_id, last_at);

-- The one-time code that lets the first administrator in: one row for the whole database, which has no organisation yet,
-- so no org_id. Only its SHA-256. Written by identity.
CREATE TABLE setup_code (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    hash       bytea NOT NULL,
    created_at timestamptz NOT NULL,
    used_at    timestamptz
);

-- What other packages may read of the directory.
CREATE VIEW directory_org AS
    SELECT org_id, slug, name, time_zone, closing_at IS NOT NULL AS closing FROM org;
CREATE VIEW directory_person AS
    SELECT org_id, id, display_name, team_id, roles, disabled_at IS NOT NULL AS disabled FROM person;
CREATE VIEW directory_device AS
    SELECT org_id, id, revoked_at IS NOT NULL AS revoked FROM device;
CREATE VIEW directory_team AS
    SELECT org_id, id, parent_id, name FROM team;
