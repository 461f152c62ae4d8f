package jobs

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/satchel-sync/satchel"
)

// River's own insert would notify inside the transaction, which takes a lock on the whole cluster at its commit, and
// cannot ride in another batch. So this package writes river_job itself, in the form of River's
// JobInsertFastMany. No table of River's has org_id in its key: the queue is the server's, and each job's handler fixes
// the organisation.
const (
	insertJobs = `-- jobs.insertJobs
insert into river_job (args, kind, max_attempts, queue, created_at, scheduled_at, state, unique_key, unique_states)
select args::jsonb, kind, max_attempts, 'default', $1, scheduled_at,
	case when scheduled_at <= $1 then 'available' else 'scheduled' end::river_job_state,
	unique_key, case when unique_key is not null then '` + waiting + `'::bit(8) end
from unnest($2::text[], $3::text[], $4::smallint[], $5::timestamptz[], $6::bytea[])
	as j(args, kind, max_attempts, scheduled_at, unique_key)
on conflict (unique_key) where unique_key is not null and unique_states is not null
	and river_job_state_in_bitmask(unique_states, state)
do update set scheduled_at = least(river_job.scheduled_at, excluded.scheduled_at),
	state = case when river_job.state = 'scheduled' then excluded.state else river_job.state end`

	// waiting are the states in which a key is taken, as bits: scheduled, running, retryable, pending, available. A
	// running job gives its key away before its handler begins (freeKey); running stands here for the moment between.
	waiting = `11110001`

	// freeKey waits for transactions that met this job's key, so that the handler sees what they did.
	freeKey = `-- jobs.freeKey
update river_job set unique_key = null, unique_states = null where id = $1 and unique_key is not null`

	// rescue is for Step what River's rescuer is for Run: jobs whose process died while they ran.
	rescue = `-- jobs.rescue
update river_job set
	state = case when attempt >= max_attempts then 'discarded' else 'retryable' end::river_job_state,
	finalized_at = case when attempt >= max_attempts then $1::timestamptz end,
	scheduled_at = $1
where state = 'running' and attempted_at < $2 and kind = any($3)`

	nextDue = `-- jobs.nextDue
select min(scheduled_at) from river_job where state in ('available', 'scheduled', 'retryable') and kind = any($1)`
)

// envelope is a job's args column.
type envelope struct {
	Org  satchel.ID      `json:"org"`
	Key  string          `json:"key,omitempty"`
	Args json.RawMessage `json:"args"`

	kind string
}

// Kind makes it River's JobArgs.
func (e envelope) Kind() string { return e.kind }

// insertArgs gives insertJobs its parameters.
func (j *Jobs) insertArgs(jobs []Job) ([]any, error) {
	now := j.now()
	var (
		args, kinds []string
		attempts    []int16
		due         []time.Time
		keys        [][]byte
		places      = map[[sha256.Size]byte]int{} // of keyed jobs: one statement cannot meet a row twice
	)
	for _, job := range jobs {
		if job.Kind == "" || job.Org.IsZero() {
			return nil, fmt.Errorf("jobs: a job has a kind and an organisation (%q, %s)", job.Kind, job.Org)
		}
		at := job.RunAt
		if at.IsZero() {
			at = now
		}
		if job.Key != "" {
			key := sha256.Sum256([]byte(job.Kind + "\x00" + job.Org.String() + "\x00" + job.Key))
			if i, twice := places[key]; twice {
				if at.Before(due[i]) {
					due[i] = at
				}
				continue
			}
			places[key] = len(keys)
			keys = append(keys, key[:])
		} else {
			keys = append(keys, nil)
		}
		a, err := json.Marshal(job.Args)
		if err != nil {
			return nil, fmt.Errorf("jobs: the arguments of %s: %w", job.Kind, err)
		}
		if len(a) > MaxArgs {
			return nil, fmt.Errorf("jobs: the arguments of %s have %d bytes, more than %d; name the data, do not carry them", job.Kind, len(a), MaxArgs)
		}
		e, err := json.Marshal(envelope{Org: job.Org, Key: job.Key, Args: a})
		if err != nil {
			return nil, fmt.Errorf("jobs: the arguments of %s: %w", job.Kind, err)
		}
		tries := job.MaxAttempts
		if tries == 0 {
			tries = DefaultMaxAttempts
		}
		if tries < 1 || tries > 100 {
			return nil, fmt.Errorf("jobs: MaxAttempts of %s is %d, not 1 to 100", job.Kind, tries)
		}
		args, kinds, attempts, due = append(args, string(e)), append(kinds, job.Kind), append(attempts, int16(tries)), append(due, at)
	}
	return []any{now, args, kinds, attempts, due, keys}, nil
}
