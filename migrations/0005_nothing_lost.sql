-- +goose Up

-- A record that was merged into another (S9) keeps its row, deleted, with the record in which its work goes on. That one
-- was never merged itself: chains have length 1.
ALTER TABLE record ADD COLUMN root uuid;
CREATE INDEX record_root ON record (org_id, root) WHERE root IS NOT NULL;

-- The blob that a photo or voice note names, as a column of its own: with an index over data itself no change of a
-- record could stay on its page (HOT), and each would write all indexes anew.
DROP INDEX record_blob;
ALTER TABLE record ADD COLUMN blob text GENERATED ALWAYS AS (CASE WHEN kind IN ('photo', 'voice_note') THEN data ->> 'blob' END) STORED;
CREATE INDEX record_blob ON record (org_id, blob) WHERE blob IS NOT NULL;

-- What a device told last of itself, for the office; shown is the commit up to which it had pulled, protocol the version
-- that it speaks, repaired_at when it last had to repair its data; behind says that there was more to pull.
ALTER TABLE lane
    ADD COLUMN shown       bigint NOT NULL DEFAULT 0,
    ADD COLUMN app_version text,
    ADD COLUMN profile     text,
    ADD COLUMN protocol    integer NOT NULL DEFAULT 1,
    ADD COLUMN repaired_at timestamptz,
    ADD COLUMN behind      boolean NOT NULL DEFAULT false;

-- Up to where the device had confirmed at trim_at: 35 days later, those runs of the ledger go.
ALTER TABLE lane
    ADD COLUMN trim_to bigint      NOT NULL DEFAULT 0,
    ADD COLUMN trim_at timestamptz NOT NULL DEFAULT 'epoch';

-- Up to swept, all tombstones behind the horizon are gone; between the two, a sweep is deleting them.
ALTER TABLE org_clock ADD COLUMN swept bigint NOT NULL DEFAULT 0;

-- A mutation that did not take effect as it was sent: refused, conflicting, not understood, or waiting (waits_for) for a
-- record whose creation was refused. It can be tried again, edited or discarded. mutation is null where it cannot be
-- JSON for Postgres; then bytes has it, but of an envelope, whose bytes are on the device. state: open, applied,
-- discarded. tries counts tries to apply it again: each has a key of its own in ledger_source. Closed ones are kept 35
-- days. Written by syncengine.
CREATE TABLE kept (
    org_id     uuid   NOT NULL,
    device_id  uuid   NOT NULL,
    number     bigint NOT NULL,
    id         uuid   NOT NULL,
    person_id  uuid   NOT NULL,
    mutation   jsonb,
    bytes      bytea,
    verdict    jsonb  NOT NULL,
    status     text   NOT NULL,
    waits_for  uuid,
    event_ms   bigint NOT NULL,
    at         timestamptz NOT NULL,
    state      text   NOT NULL DEFAULT 'open',
    settled_by uuid,
    settled_at timestamptz,
    tries      integer NOT NULL DEFAULT 0,
    PRIMARY KEY (org_id, device_id, number)
);
CREATE INDEX kept_waits ON kept (org_id, waits_for, device_id, number) WHERE waits_for IS NOT NULL AND state = 'open';
CREATE INDEX kept_at ON kept (org_id, at, device_id, number);
CREATE INDEX kept_unsupported ON kept (org_id, device_id, number) WHERE status = 'UNSUPPORTED' AND state = 'open';

-- The device that this one was: its person signed in anew after it was revoked, with the same installation. What was
-- applied under the old one is known by its random id. Written by identity.
ALTER TABLE device ADD COLUMN was uuid;
CREATE OR REPLACE VIEW directory_device AS
    SELECT org_id, id, revoked_at IS NOT NULL AS revoked, person_id, was FROM device;

-- What any device of a person has done is looked for by its random id, where two may send the same.
CREATE INDEX lane_person ON lane (org_id, person_id);

-- What waited so far waits in kept from now on.
INSERT INTO kept (org_id, device_id, number, id, person_id, mutation, verdict, status, waits_for, event_ms, at)
SELECT org_id, device_id, number, id, person_id, mutation, '{"s":"REJECTED","why":"DEPENDS_ON"}', 'REJECTED', record_id,
  coalesce((mutation -> 'recorded' ->> 'wall_ms')::bigint, 0), now()
FROM parked ON CONFLICT DO NOTHING;
DROP TABLE parked;

-- A row that a device still held and the restored database did not, or only an older one (S18): the newest that was
-- offered. Written by syncengine.
CREATE TABLE salvage (
    org_id    uuid   NOT NULL,
    record_id uuid   NOT NULL,
    kind      text   NOT NULL,
    rev       bigint NOT NULL,
    data      jsonb  NOT NULL,
    author    uuid,
    event_ms  bigint NOT NULL,
    device_id uuid   NOT NULL,
    person_id uuid   NOT NULL,
    at        timestamptz NOT NULL,
    PRIMARY KEY (org_id, record_id)
);
CREATE INDEX salvage_at ON salvage (org_id, at, record_id);

-- Which commit was the last at a moment, noted once a day: by it the horizon is found. Written by syncengine.
CREATE TABLE mark (
    org_id uuid        NOT NULL,
    at     timestamptz NOT NULL,
    seq    bigint      NOT NULL,
    PRIMARY KEY (org_id, at)
);

-- The line of the log that this database is on: Postgres' system identifier and timeline, one row. It is restored with
-- the database, so that a server sees the difference (S18). Written by syncengine.
CREATE TABLE line (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    system    bigint  NOT NULL,
    timeline  bigint  NOT NULL,
    opened_at timestamptz NOT NULL
);

-- open_epoch begins a new epoch in every organisation: what devices know beyond the cut is of another line. An epoch is
-- the number of 4 minutes since 2026 began, or one more than the last, and more than above (an epoch that a device has
-- seen). Rights and numbers of buckets jump with it, so that none of the dead line is taken for one of this; opened_at
-- tells the servers to forget what they know.
-- +goose StatementBegin
CREATE FUNCTION satchel_open_epoch(above bigint DEFAULT 0) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE org_clock c SET
        cuts = c.cuts || jsonb_build_array(jsonb_build_object('epoch', c.seq >> 40, 'cut', c.seq, 'at', floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)),
        seq = e.epoch << 40,
        rights = greatest(c.rights + 1, e.epoch << 24),
        buckets = greatest(c.buckets + 1, e.epoch << 20)
    FROM (SELECT o.org_id, greatest((o.seq >> 40) + 1, above + 1,
            floor((extract(epoch FROM clock_timestamp()) - 1767225600) / 240)::bigint) AS epoch
          FROM org_clock o) e
    WHERE e.org_id = c.org_id;
    UPDATE line SET opened_at = clock_timestamp();
END
$$;
-- +goose StatementEnd

-- open_epoch_seen opens an epoch because somebody has proved that he knows the commit seen, which this database does
-- not have: it was restored from a disk snapshot, and nobody said so. It is false when an epoch was opened meanwhile.
-- +goose StatementBegin
CREATE FUNCTION satchel_open_epoch_seen(org uuid, seen bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE line IN EXCLUSIVE MODE;
    IF EXISTS (SELECT 1 FROM org_clock c WHERE c.org_id = org AND (c.seq >= seen OR c.seq >> 40 > seen >> 40)) THEN
        RETURN false;
    END IF;
    PERFORM satchel_open_epoch(seen >> 40);
    RETURN true;
END
$$;
-- +goose StatementEnd

-- check_line opens an epoch when this database is on another line than the one noted: restored from a backup, or a
-- standby that was promoted. It is true when it did. On a standby it does nothing.
-- +goose StatementBegin
CREATE FUNCTION satchel_check_line() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    sys bigint;
    tl  bigint;
    was record;
BEGIN
    IF pg_is_in_recovery() THEN
        RETURN false;
    END IF;
    SELECT system_identifier INTO sys FROM pg_control_system();
    tl := ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint;
    SELECT * INTO was FROM line;
    IF FOUND AND was.system = sys AND was.timeline = tl THEN
        RETURN false;
    END IF;
    LOCK TABLE line IN EXCLUSIVE MODE;
    SELECT * INTO was FROM line;
    IF NOT FOUND THEN
        INSERT INTO line (system, timeline, opened_at) VALUES (sys, tl, clock_timestamp());
        RETURN false;
    END IF;
    IF was.system = sys AND was.timeline = tl THEN
        RETURN false;
    END IF;
    UPDATE line SET system = sys, timeline = tl, opened_at = clock_timestamp();
    PERFORM satchel_open_epoch();
    RETURN true;
END
$$;
-- +goose StatementEnd

SELECT satchel_check_line();
