package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// slowFlush goes in front of the C library in every process of a Postgres: what waits for the disk waits 2 ms longer,
// as if the disk were that slow. Postgres itself knows nothing of it.
const slowFlush = `#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <time.h>

static void wait_for_the_disk(void) {
	struct timespec left = {0, 2000000};
	while (nanosleep(&left, &left) == -1 && errno == EINTR)
		;
}

int fdatasync(int fd) {
	static int (*real)(int);
	if (!real)
		real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
	wait_for_the_disk();
	return real(fd);
}

int fsync(int fd) {
	static int (*real)(int);
	if (!real)
		real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
	wait_for_the_disk();
	return real(fd);
}
`

// slowDisk starts the Postgres whose flushes take 2 ms longer. It needs Linux and a C compiler; the error says so.
func (c *benchCmd) slowDisk(ctx context.Context, std streams) (url string, stop func(), err error) {
	if runtime.GOOS != "linux" {
		return "", nil, errors.New("it needs Linux, where a library can be put in front of Postgres' flushes")
	}
	var compiler string
	for _, name := range []string{"cc", "gcc", "clang"} {
		if compiler, err = exec.LookPath(name); err == nil {
			break
		}
	}
	if err != nil {
		return "", nil, errors.New("it needs a C compiler (`apt-get install gcc libc6-dev`), for a library of 20 lines that slows flushes")
	}
	dir, err := os.MkdirTemp("", "satchel-slow-")
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	source, library := filepath.Join(dir, "flush.c"), filepath.Join(dir, "flush.so")
	if err := os.WriteFile(source, []byte(slowFlush), 0o600); err != nil {
		return "", nil, err
	}
	if out, err := exec.CommandContext(ctx, compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl").CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("%s does not compile the library that slows flushes: %w: %s", compiler, err, out)
	}
	for _, name := range []string{dir, library} { // Postgres may run as another user
		if err := os.Chmod(name, 0o755); err != nil {
			return "", nil, err
		}
	}
	url, end, err := c.start(ctx, std, "pg-slow", "LD_PRELOAD="+library)
	if err != nil {
		return "", nil, err
	}
	return url, func() {
		end()
		_ = os.RemoveAll(dir) // in the system's folder for such files; what stays is small
	}, nil
}
