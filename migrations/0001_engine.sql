-- +goose Up

-- An organisation's clock, one row each. seq is the number of its last commit: dense, taken as the last step of each
-- transaction, its high bits are the epoch. rights counts every change of roles, teams, grants and schema. buckets is
-- the number given last to a bucket. horizon is the highest seq whose tombstones are gone; cuts lists where older
-- epochs ended. cursor_key signs cursors and checkpoint tokens. Written by syncengine.
CREATE TABLE org_clock (
    org_id         uuid   PRIMARY KEY,
    seq            bigint NOT NULL DEFAULT 0,
    rights         bigint NOT NULL DEFAULT 1,
    buckets        bigint NOT NULL DEFAULT 0,
    horizon        bigint NOT NULL DEFAULT 0,
    cuts           jsonb  NOT NULL DEFAULT '[]',
    schema_version integer NOT NULL DEFAULT 1,
    cursor_key     bytea  NOT NULL
) WITH (fillfactor = 50);

-- A published version of an organisation's schema, as the YAML pack that an administrator gave. Written by syncengine.
CREATE TABLE schema_version (
    org_id       uuid        NOT NULL,
    version      integer     NOT NULL,
    pack         text        NOT NULL,
    published_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, version)
);

-- A piece of business data. data has the fields as JSON; stamps has, by path, (rev, event time, device, number) of
-- the last change since creation, and under '' those of the creation; rev counts the changes. buckets has the numbers
-- of the buckets it lies in, so that a writer knows the old heads without reading them. A deleted record keeps its
-- data: an edit may revive it. owner, parent and parent_owner (the owner of the topmost record that it hangs under)
-- repeat what placement follows from, so that moves find what hangs below. Written by syncengine.
CREATE TABLE record (
    org_id         uuid     NOT NULL,
    id             uuid     NOT NULL,
    kind           text     NOT NULL,
    rev            bigint   NOT NULL,
    data           jsonb    NOT NULL,
    stamps         jsonb    NOT NULL,
    buckets        bigint[] NOT NULL,
    author         uuid,
    owner          uuid,
    parent         uuid,
    parent_owner   uuid,
    event_ms       bigint   NOT NULL,
    schema_version integer  NOT NULL,
    deleted        boolean  NOT NULL DEFAULT false,
    PRIMARY KEY (org_id, id)
) WITH (fillfactor = 85);
CREATE INDEX record_parent ON record (org_id, parent) WHERE parent IS NOT NULL;
CREATE INDEX record_blob ON record (org_id, (data ->> 'blob')) WHERE kind IN ('photo', 'voice_note');

-- A record's place in one bucket, moved forward in place: the log is as long as the data. present is false where the
-- record has left the bucket; a deleted record stays present, its row is the tombstone. Written by syncengine.
CREATE TABLE head (
    org_id    uuid    NOT NULL,
    bucket    bigint  NOT NULL,
    record_id uuid    NOT NULL,
    kind      text    NOT NULL,
    seq       bigint  NOT NULL,
    present   boolean NOT NULL,
    PRIMARY KEY (org_id, bucket, record_id)
);
CREATE INDEX head_seq ON head (org_id, bucket, seq, record_id);

-- A bucket's number. A stem says whose it is ('own:PERSON', 'team:TEAM', 'org'), month splits facts. Numbers are
-- never used again. Written by syncengine.
CREATE TABLE bucket_name (
    org_id uuid   NOT NULL,
    stem   text   NOT NULL,
    month  text   NOT NULL,
    num    bigint NOT NULL,
    PRIMARY KEY (org_id, stem, month),
    UNIQUE (org_id, num)
);

-- A bucket and kind: the last seq at which something in it moved, how many records are present, and the sum of
-- H(record, rev) over them, 32 bits each. Serves the idle check, Wait and the digest. Written by syncengine.
CREATE TABLE bucket (
    org_id   uuid   NOT NULL,
    num      bigint NOT NULL,
    kind     text   NOT NULL,
    last_seq bigint NOT NULL,
    count    bigint NOT NULL,
    sum      bigint NOT NULL,
    PRIMARY KEY (org_id, num, kind)
) WITH (fillfactor = 50);

-- One op as it took effect: the values it replaced (before), the values that it offered and lost (lost). Append only;
-- with record it gives every past state. Written by syncengine.
CREATE TABLE history (
    org_id      uuid   NOT NULL,
    record_id   uuid   NOT NULL,
    id          uuid   NOT NULL,
    rev         bigint NOT NULL,
    op          text   NOT NULL,
    before      jsonb,
    lost        jsonb,
    actor       uuid,
    device      uuid,
    number      bigint,
    source      text,
    cause       text,
    event_ms    bigint NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, record_id, id)
);

-- A device's queue: the number expected next, what the device has confirmed, the device that it was before a fork
-- (and the number at which it forked), the lane that took its place when it forked (successor, kept on the lane of the
-- device's sign-in), last contact and outbox. Never trimmed; the first row that a batch, and a revocation, locks.
-- Written by syncengine.
CREATE TABLE lane (
    org_id       uuid   NOT NULL,
    device_id    uuid   NOT NULL,
    person_id    uuid   NOT NULL,
    next         bigint NOT NULL DEFAULT 1,
    confirmed    bigint NOT NULL DEFAULT 0,
    was          uuid,
    was_below    bigint,
    successor    uuid,
    last_event   bigint NOT NULL DEFAULT 0,
    last_contact timestamptz,
    outbox_count integer NOT NULL DEFAULT 0,
    outbox_oldest timestamptz,
    media_bytes  bigint NOT NULL DEFAULT 0,
    app_schema   integer NOT NULL DEFAULT 0,
    PRIMARY KEY (org_id, device_id)
) WITH (fillfactor = 70);

-- A run of mutations of a device: first number, their random ids, their verdicts (null = all APPLIED without notes),
-- the seq at which they are visible. Kept 35 days after confirmation. Written by syncengine.
CREATE TABLE ledger (
    org_id    uuid   NOT NULL,
    device_id uuid   NOT NULL,
    first     bigint NOT NULL,
    ids       uuid[] NOT NULL,
    verdicts  jsonb,
    seq       bigint NOT NULL,
    at        timestamptz NOT NULL,
    PRIMARY KEY (org_id, device_id, first)
);

-- The verdict of a mutation that came from elsewhere than a device (rules, web decisions, import), by its source and
-- key. Written by syncengine.
CREATE TABLE ledger_source (
    org_id  uuid NOT NULL,
    source  text NOT NULL,
    key     text NOT NULL,
    verdict jsonb NOT NULL,
    seq     bigint NOT NULL,
    at      timestamptz NOT NULL,
    PRIMARY KEY (org_id, source, key)
);

-- A record whose creation was refused to a person, and the attention that keeps it. What the same person does to such a
-- record depends on it; to others it does not exist.
-- Written by syncengine.
CREATE TABLE refused (
    org_id       uuid NOT NULL,
    record_id    uuid NOT NULL,
    attention_id uuid NOT NULL,
    person_id    uuid NOT NULL,
    PRIMARY KEY (org_id, record_id, person_id)
);

-- A mutation that waits for a refused creation to be resolved; applied in order once the record exists. Written by
-- syncengine.
CREATE TABLE parked (
    org_id    uuid   NOT NULL,
    record_id uuid   NOT NULL,
    id        uuid   NOT NULL,
    device_id uuid   NOT NULL,
    number    bigint NOT NULL,
    person_id uuid   NOT NULL,
    mutation  jsonb  NOT NULL,
    PRIMARY KEY (org_id, record_id, id)
);

-- What a cursor stands for: buckets in fill order with their kinds, masks, schema version; by hash. Written by syncengine.
CREATE TABLE view (
    org_id  uuid  NOT NULL,
    hash    bytea NOT NULL,
    def     jsonb NOT NULL,
    used_on date  NOT NULL,
    PRIMARY KEY (org_id, hash)
);

-- number takes the organisation's next seq. It raises SA001 when rights have moved since they were read: what was
-- checked must be true at the commit, and a result that nobody has read yet cannot stop a COMMIT already sent.
-- +goose StatementBegin
CREATE FUNCTION satchel_number(org uuid, seen_rights bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    UPDATE org_clock SET seq = seq + 1 WHERE org_id = org AND rights = seen_rights RETURNING seq INTO n;
    IF n IS NULL THEN
        RAISE EXCEPTION 'rights have changed' USING ERRCODE = 'SA001';
    END IF;
    RETURN n;
END
$$;
-- +goose StatementEnd

-- mask shows the first 3 and the last 4 characters of a text of 8 or more, and nothing of a shorter one.
-- +goose StatementBegin
CREATE FUNCTION satchel_mask(v jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN jsonb_typeof(v) = 'string' AND length(v #>> '{}') >= 8
        THEN to_jsonb(left(v #>> '{}', 3) || '****' || right(v #>> '{}', 4))
        ELSE '"****"'::jsonb END
$$;
-- +goose StatementEnd
