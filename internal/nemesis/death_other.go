//go:build !linux

package nemesis

import (
	"os/exec"
	"syscall"
)

// dieWithParent: the process ends when its input does. Ctrl-C does not reach it.
func dieWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
