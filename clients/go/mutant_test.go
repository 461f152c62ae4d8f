//go:build mutants

package satchelclient_test

import (
	"testing"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/internal/mutant"
)

// What the planted faults break, so that a simulator that does not find them is at fault itself. Not parallel: a fault is
// planted in the process.

func TestThePlantedFaultOverlayEarlyMakesOwnWorkFlicker(t *testing.T) {
	_, c := scripted(t, answer(page("1", false, 0), applied(1, 9)))
	id := mustCreate(t, c, "account", satchelclient.Fields{"a": 1})
	mutant.Plant(mutant.OverlayEarly)
	defer mutant.Plant("")
	once(t, c)
	wantShown(t, c, "account", id, "none")
}

func TestThePlantedFaultStagedShownShowsAPageTooEarly(t *testing.T) {
	id := satchel.NewID()
	_, c := scripted(t, answer(page("1", false, 0, change(id, 1, `{"a":1}`, 1))))
	mutant.Plant(mutant.StagedShown)
	defer mutant.Plant("")
	once(t, c)
	wantShown(t, c, "account", id, `{"a":1}`)
}
