package identity

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
)

// Team is a node of an organisation's team tree.
type Team struct {
	ID     satchel.ID
	Name   string     // 1 to 200 characters; need not be unique
	Parent satchel.ID // zero = a root
}

// The bounds of a team tree.
const (
	mostTeams = 5000
	mostDepth = 16
)

// TeamPatch says what to change; nil leaves a thing as it is.
type TeamPatch struct {
	Team   satchel.ID
	Name   *string
	Parent *satchel.ID // the zero ID = make it a root
}

func readTeams(ctx context.Context, q querier, org satchel.ID) ([]Team, error) {
	rows, err := q.Query(ctx, sqlListTeams, org)
	if err != nil {
		return nil, fmt.Errorf("identity: list teams: %w", err)
	}
	teams, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (t Team, err error) {
		return t, r.Scan(&t.ID, &t.Name, &t.Parent)
	})
	if err != nil {
		return nil, fmt.Errorf("identity: list teams: %w", err)
	}
	return teams, nil
}

func teamExists(ctx context.Context, tx pgx.Tx, org, team satchel.ID) error {
	if team.IsZero() {
		return nil
	}
	var one int
	err := tx.QueryRow(ctx, sqlTeamExists, org, team).Scan(&one)
	if errors.Is(err, pgx.ErrNoRows) {
		return notFound("team")
	}
	if err != nil {
		return fmt.Errorf("identity: look for a team: %w", err)
	}
	return nil
}

// ListTeams gives the organisation's whole tree, parents before children, otherwise by name. Everybody in the
// organisation may read it.
func (s *Service) ListTeams(ctx context.Context, p *satchel.Principal) ([]Team, error) {
	teams, err := readTeams(ctx, s.pool, p.Org)
	if err != nil {
		return nil, pg.ToError(err)
	}
	return parentsFirst(teams), nil
}

// CreateTeam adds a team below parent, or a root for the zero ID. Needs directory.manage. Errors: NOT_FOUND for the
// parent, TOO_LARGE past 5,000 teams or 16 levels.
func (s *Service) CreateTeam(ctx context.Context, p *satchel.Principal, name string, parent satchel.ID) (Team, error) {
	if err := s.mayManage(ctx, p); err != nil {
		return Team{}, err
	}
	name, err := cleanText("team's name", name, 200)
	if err != nil {
		return Team{}, err
	}
	t := Team{ID: satchel.NewID(), Name: name, Parent: parent}
	err = s.changeDirectory(ctx, p.Org, p, func(ctx context.Context, tx pgx.Tx) (change, error) {
		teams, err := readTeams(ctx, tx, p.Org)
		if err != nil {
			return change{}, err
		}
		if err := checkTree(append(teams, t), t); err != nil {
			return change{}, err
		}
		if _, err := tx.Exec(ctx, sqlInsertTeam, p.Org, t.ID, pg.NullID(t.Parent), t.Name, s.now()); err != nil {
			return change{}, fmt.Errorf("identity: insert a team: %w", err)
		}
		return change{rights: true, teams: []satchel.ID{t.ID}}, nil
	})
	if err != nil {
		return Team{}, err
	}
	return t, nil
}

// UpdateTeam renames a team or moves it, with all below it. Needs directory.manage. Errors: NOT_FOUND for the team or
// its new parent, MALFORMED for a move below itself, TOO_LARGE for a tree deeper than 16 levels.
func (s *Service) UpdateTeam(ctx context.Context, p *satchel.Principal, patch TeamPatch) (t Team, err error) {
	if err := s.mayManage(ctx, p); err != nil {
		return t, err
	}
	if patch.Name != nil {
		name, err := cleanText("team's name", *patch.Name, 200)
		if err != nil {
			return t, err
		}
		patch.Name = &name
	}
	err = s.changeDirectory(ctx, p.Org, p, func(ctx context.Context, tx pgx.Tx) (change, error) {
		teams, err := readTeams(ctx, tx, p.Org)
		if err != nil {
			return change{}, err
		}
		var moved, renamed bool
		if t, moved, renamed, err = patch.apply(teams); err != nil || !moved && !renamed {
			return change{}, err
		}
		if _, err := tx.Exec(ctx, sqlUpdateTeam, p.Org, t.ID, pg.NullID(t.Parent), t.Name); err != nil {
			return change{}, fmt.Errorf("identity: update a team: %w", err)
		}
		return change{rights: moved, teams: []satchel.ID{t.ID}}, nil
	})
	if err != nil {
		return Team{}, err
	}
	return t, nil
}

// apply changes the team inside teams and checks the tree that this makes.
func (patch TeamPatch) apply(teams []Team) (t Team, moved, renamed bool, err error) {
	for i := range teams {
		if teams[i].ID != patch.Team {
			continue
		}
		if patch.Name != nil && *patch.Name != teams[i].Name {
			teams[i].Name, renamed = *patch.Name, true
		}
		if patch.Parent != nil && *patch.Parent != teams[i].Parent {
			teams[i].Parent, moved = *patch.Parent, true
			err = checkTree(teams, teams[i])
		}
		return teams[i], moved, renamed, err
	}
	return t, false, false, notFound("team")
}

// checkTree refuses a tree in which the new or moved team has no parent, hangs below itself, or lies or reaches too
// deep. The rest of the tree was checked when it came about.
func checkTree(teams []Team, moved Team) error {
	if len(teams) > mostTeams {
		return satchel.E(satchel.Precondition, satchel.ReasonTooLarge, "An organisation has at most %d teams.", mostTeams)
	}
	parents := make(map[satchel.ID]satchel.ID, len(teams))
	for _, t := range teams {
		parents[t.ID] = t.Parent
	}
	if _, ok := parents[moved.Parent]; !ok && !moved.Parent.IsZero() {
		return notFound("team to hang it below")
	}
	// Upwards first: only once that is free of a cycle do walks from elsewhere end.
	for at := moved.Parent; !at.IsZero(); at = parents[at] {
		if at == moved.ID {
			return satchel.E(satchel.Invalid, satchel.ReasonMalformed, "A team cannot be moved below itself.")
		}
	}
	for _, t := range teams {
		depth := 0
		for at := t.ID; !at.IsZero(); at = parents[at] {
			depth++
		}
		if depth > mostDepth {
			return satchel.E(satchel.Precondition, satchel.ReasonTooLarge, "A team tree has at most %d levels.", mostDepth)
		}
	}
	return nil
}

// parentsFirst sorts a tree level by level and keeps the order inside a level.
func parentsFirst(teams []Team) []Team {
	below := make(map[satchel.ID][]Team, len(teams))
	for _, t := range teams {
		below[t.Parent] = append(below[t.Parent], t)
	}
	out := append(make([]Team, 0, len(teams)), below[satchel.ID{}]...)
	for i := 0; i < len(out); i++ {
		out = append(out, below[out[i].ID]...)
	}
	return out
}

// ImportTeams adds many teams in the caller's transaction, parents before children, each with its ID. It is for demo
// data and tests, and holds the directory lock until the transaction ends.
func (s *Service) ImportTeams(ctx context.Context, tx pgx.Tx, org satchel.ID, teams []Team) error {
	if len(teams) == 0 {
		return nil
	}
	if err := s.lockDirectory(ctx, tx, org, nil); err != nil {
		return err
	}
	all, err := readTeams(ctx, tx, org)
	if err != nil {
		return err
	}
	c := change{rights: true}
	b := &pgx.Batch{}
	for _, t := range teams {
		if t.Name, err = cleanText("team's name", t.Name, 200); err != nil {
			return err
		}
		b.Queue(sqlInsertTeam, org, t.ID, pg.NullID(t.Parent), t.Name, s.now())
		c.teams = append(c.teams, t.ID)
		all = append(all, t)
	}
	// The last team of a list with parents first cannot close a cycle, and checkTree measures every team.
	if len(parentsFirst(all)) != len(all) {
		return satchel.E(satchel.Invalid, satchel.ReasonMalformed, "A team to import hangs below itself or below no team.")
	}
	if err := checkTree(all, teams[len(teams)-1]); err != nil {
		return err
	}
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("identity: import teams: %w", err)
	}
	return s.tellEngine(ctx, tx, org, c)
}
