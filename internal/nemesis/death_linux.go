package nemesis

import (
	"os/exec"
	"syscall"
)

// dieWithParent lets the system kill the process when this one dies in whatever way, also while it is stopped. Ctrl-C
// does not reach it: this process ends it.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
