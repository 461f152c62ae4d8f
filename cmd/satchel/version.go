package main

import (
	"fmt"
	"runtime/debug"

	"github.com/satchel-sync/satchel/migrations"
)

// versionCmd is `satchel version`.
type versionCmd struct{}

// Run prints what the binary knows of itself.
func (versionCmd) Run(std streams) error {
	commit, dirty := "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				commit = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = " with local changes"
			}
		}
		fmt.Fprintf(std.out, "satchel %s (%s)\n", info.Main.Version, info.GoVersion)
	}
	if commit != "" {
		fmt.Fprintf(std.out, "commit %s%s\n", commit, dirty)
	}
	shape, err := migrations.Fingerprint()
	if err != nil {
		return err
	}
	fmt.Fprintf(std.out, "database shape %s\n", shape)
	return nil
}
