// Command go is the driver of conformance around the Go client: see conformance/README.md.
//
//	go run ./conformance/run -- go run ./conformance/drivers/go -store sqlite
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/satchel-sync/satchel/conformance/godriver"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() (err error) {
	kind := flag.String("store", "memory", "memory or sqlite")
	folder := flag.String("folder", "", "where the files of sqlite lie, and nothing else; default = a new one, removed at the end")
	jsonCodec := flag.Bool("json", false, "speak JSON in place of binary Protobuf")
	flag.Parse()
	stores := godriver.Memory()
	switch *kind {
	case "memory":
	case "sqlite":
		if *folder == "" {
			if *folder, err = os.MkdirTemp("", "satchel-conformance-"); err != nil {
				return err
			}
			defer os.RemoveAll(*folder) //nolint:errcheck // a folder of the system's for such
		}
		stores = godriver.SQLite(*folder)
	default:
		return fmt.Errorf("there is no store %q", *kind)
	}
	return godriver.Serve(context.Background(), os.Stdin, os.Stdout, godriver.Options{Stores: stores, JSON: *jsonCodec})
}
