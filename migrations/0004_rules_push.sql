-- +goose Up

-- Timers of rules and deliveries of notices. Times are the server's clock, given as parameters; due_at is business time.

-- When a rule looks at a record: at most one timer for a rule and a record, written in the transaction that sets, moves
-- or clears the rule's anchor field. anchor is the field's value as it was then, due_at that moment plus the rule's
-- offset. token is minted anew with each setting: the job that waits carries it, so a job of an older setting finds
-- nothing to do. state is waiting, then one of fired (a notice was made), skipped (looked, but the condition was false or
-- there was nobody to tell), cancelled (the anchor was cleared, the record deleted, the rule dropped) or failed (the
-- engine refused the notice; the log says why). late_ms is how long after due_at it fired. Written by rules.
CREATE TABLE timer (
    org_id     uuid        NOT NULL,
    rule       text        NOT NULL,
    record_id  uuid        NOT NULL,
    anchor     text        NOT NULL,
    due_at     timestamptz NOT NULL,
    token      uuid        NOT NULL,
    state      text        NOT NULL CHECK (state IN ('waiting', 'fired', 'skipped', 'cancelled', 'failed')),
    settled_at timestamptz,
    late_ms    bigint,
    PRIMARY KEY (org_id, rule, record_id)
);

-- Where a device can be reached: kind is the channel (fcm), address what the channel knows the device by. An address
-- belongs to one device and person of an organisation at a time; when it moves to another its id is minted anew, so that
-- what was on its way to the one before finds it gone. language is zh or en. Written by push.
CREATE TABLE push_address (
    org_id    uuid        NOT NULL,
    id        uuid        NOT NULL,
    kind      text        NOT NULL,
    address   text        NOT NULL,
    person_id uuid        NOT NULL,
    device_id uuid        NOT NULL,
    language  text        NOT NULL CHECK (language IN ('zh', 'en')),
    set_at    timestamptz NOT NULL,
    PRIMARY KEY (org_id, id),
    UNIQUE (org_id, kind, address)
);
CREATE INDEX push_address_by_person ON push_address (org_id, person_id);
CREATE INDEX push_address_by_device ON push_address (org_id, device_id);

-- A notice on its way to an address: one row for each, made in the transaction that makes the notice. state is waiting,
-- sending (claimed by a worker at claimed_at; a claim that is older than the lease may be taken over, which can send
-- twice, with the same id), or settled: sent, read (the person had read the notice by then), dead (the channel does not
-- know the address any more), address_gone (it was removed or moved on), no_channel (nothing is set up for its kind),
-- misconfigured and bad_payload (ours to mend), gave_up. attempts counts the sends that began. Written by push.
CREATE TABLE delivery (
    org_id     uuid        NOT NULL,
    notice_id  uuid        NOT NULL,
    address_id uuid        NOT NULL,
    person_id  uuid        NOT NULL,
    state      text        NOT NULL CHECK (state IN ('waiting', 'sending', 'sent', 'read', 'dead', 'address_gone', 'no_channel',
                                                     'misconfigured', 'bad_payload', 'gave_up')),
    attempts   integer     NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    claimed_at timestamptz,
    settled_at timestamptz,
    PRIMARY KEY (org_id, notice_id, address_id)
);
