//go:build !unix

package conformance

import "os/exec"

// ownGroup does nothing here: name a driver that is one process.
func ownGroup(*exec.Cmd) {}

// killGroup ends the process.
func killGroup(cmd *exec.Cmd) error { return cmd.Process.Kill() }
