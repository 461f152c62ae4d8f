-- +goose Up

-- The bytes of photos and voice notes. Package media writes every table of this file; the bytes themselves lie in the
-- blob store, under blob/<org>/<first two digits>/<sha256>. Times are the server's clock, given as parameters.

-- Bytes that are stored, by their SHA-256, once per organisation. content_type is what the bytes are, not what the
-- phone called them; evidence is what a JPEG says of itself (size in pixels, time, place), which whoever made the file
-- could edit. A row is written after its bytes are durable. A blob that no record names may be removed, but never
-- before 90 days after stored_at: longer than a phone can be offline with the record that will name it. Written by
-- media.
CREATE TABLE blob (
    org_id       uuid        NOT NULL,
    sha256       bytea       NOT NULL CHECK (octet_length(sha256) = 32),
    size         bigint      NOT NULL CHECK (size > 0),
    content_type text        NOT NULL,
    evidence     jsonb,
    stored_at    timestamptz NOT NULL,
    PRIMARY KEY (org_id, sha256)
);

-- Who sent a blob. Only he is told that it is there: the name of a file must not give away that it exists, nor its
-- bytes. Written by media.
CREATE TABLE blob_owner (
    org_id    uuid        NOT NULL,
    sha256    bytea       NOT NULL,
    person_id uuid        NOT NULL,
    sent_at   timestamptz NOT NULL,
    PRIMARY KEY (org_id, sha256, person_id),
    FOREIGN KEY (org_id, sha256) REFERENCES blob (org_id, sha256) ON DELETE CASCADE
);

-- Bytes on their way. received is the sum of the pieces so far, which lie in the blob store under
-- staging/<org>/<upload>/<round>/; round counts beginnings from 0, so that pieces of an earlier try, late on their
-- way, can never mix with those of this one. state is open, done (the blob is stored; kept so that Complete answers
-- again) or dropped (expired; its pieces are being deleted). Written by media.
CREATE TABLE upload (
    org_id       uuid        NOT NULL,
    id           uuid        NOT NULL,
    person_id    uuid        NOT NULL,
    device_id    uuid        NOT NULL,
    sha256       bytea       NOT NULL CHECK (octet_length(sha256) = 32),
    size         bigint      NOT NULL CHECK (size > 0),
    content_type text        NOT NULL,
    received     bigint      NOT NULL DEFAULT 0 CHECK (received BETWEEN 0 AND size),
    pieces       integer     NOT NULL DEFAULT 0,
    round        integer     NOT NULL DEFAULT 0,
    state        text        NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'dropped')),
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE UNIQUE INDEX upload_open ON upload (org_id, person_id, sha256) WHERE state = 'open';
CREATE INDEX upload_expiry ON upload (org_id, expires_at);

-- A piece of an upload's current round that was received. Written by media.
CREATE TABLE upload_piece (
    org_id    uuid    NOT NULL,
    upload_id uuid    NOT NULL,
    start     bigint  NOT NULL,
    size      integer NOT NULL CHECK (size > 0),
    sha256    bytea   NOT NULL,
    PRIMARY KEY (org_id, upload_id, start),
    FOREIGN KEY (org_id, upload_id) REFERENCES upload (org_id, id) ON DELETE CASCADE
);
