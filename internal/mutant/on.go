//go:build mutants

package mutant

import "sync/atomic"

// Built says whether faults can be planted in this binary.
const Built = true

var planted atomic.Value // string

// On tells whether a fault is planted.
func On(name string) bool { now, _ := planted.Load().(string); return now == name }

// Plant plants the fault of that name in this process, in place of another; "" = none.
func Plant(name string) { planted.Store(name) }
