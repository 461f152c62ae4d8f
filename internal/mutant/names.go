package mutant

// The faults, each where the code asks [On] about it.
const (
	SeqFirst        = "seq-first"        // the commit's number is taken before the work, and not under the clock's lock
	LedgerForgotten = "ledger-forgotten" // the run of a batch is not written
	LeaveForgotten  = "leave-forgotten"  // a head that left is not moved forward
	RightsBefore    = "rights-before"    // a commit does not ask whether the rights that it was checked by still hold
	OverlayEarly    = "overlay-early"    // own work leaves the overlay with its verdict
	StagedShown     = "staged-shown"     // a page is shown before its checkpoint
	TrimmedReplayed = "trimmed-replayed" // a number below next, of which no run is kept, is applied
	YesterdaysMask  = "yesterdays-mask"  // a page is masked as the one before
	AliasIgnored    = "alias-ignored"    // an edit of a merged record is not led to its root
	GapAccepted     = "gap-accepted"     // a mutation behind a gap is applied
)

// Names lists the faults.
func Names() []string {
	return []string{SeqFirst, LedgerForgotten, LeaveForgotten, RightsBefore, OverlayEarly, StagedShown, TrimmedReplayed,
		YesterdaysMask, AliasIgnored, GapAccepted}
}
