package satchel

import "slices"

// Principal is who acts: a person on a device, as the session and the grants of this moment say. It is read from the
// database with each request and never kept longer.
type Principal struct {
	Org    ID
	Person ID
	Device ID       // zero for a person without a device (console, one-tap links)
	Roles  []string // names of roles of the organisation's schema, sorted
	Rights uint64   // the organisation's count of rights changes when this was read
}

// HasRole tells whether the person holds the role.
func (p *Principal) HasRole(name string) bool { return slices.Contains(p.Roles, name) }
