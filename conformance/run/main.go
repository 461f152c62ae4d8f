// Command run proves a client of Satchel with the transcripts of the protocol: see conformance/README.md.
//
//	go run ./conformance/run [-only REGEXP] [-v] [-sigkill] [-timeout 20s] -- DRIVER ARGS…
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/satchel-sync/satchel/conformance"
)

func main() {
	failed, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if failed {
		os.Exit(1)
	}
}

func run() (failed bool, err error) {
	only := flag.String("only", "", "play the transcripts whose name or title this regular expression finds")
	list := flag.Bool("list", false, "name the transcripts")
	verbose := flag.Bool("v", false, "show each command and call")
	sigkill := flag.Bool("sigkill", false, "kill the driver's process where a transcript kills the client")
	timeout := flag.Duration("timeout", 20*time.Second, "of each command")
	flag.Parse()
	pick, err := regexp.Compile(*only)
	if err != nil {
		return false, err
	}
	all, err := conformance.Transcripts()
	if err != nil {
		return false, err
	}
	if *list {
		for _, t := range all {
			fmt.Printf("%-28s %-14s %s\n", t.Name, strings.Join(t.States, " "), t.Title)
		}
		return false, nil
	}
	if flag.NArg() == 0 {
		return false, fmt.Errorf("name the driver: go run ./conformance/run -- DRIVER ARGS…")
	}
	cfg := conformance.Config{Command: flag.Args(), Sigkill: *sigkill, Timeout: *timeout}
	if *verbose {
		cfg.Log = os.Stderr
	}
	r, err := conformance.New(cfg)
	if err != nil {
		return false, err
	}
	defer r.Close() //nolint:errcheck // the program ends
	passed, bad, notAsked := 0, 0, 0
	for _, t := range all {
		if !pick.MatchString(t.Name) && !pick.MatchString(t.Title) {
			continue
		}
		res := r.Play(t)
		switch {
		case res.NotAsked:
			notAsked++
			fmt.Printf("-     %-28s %s: not asked, the driver cannot damage its store\n", t.Name, t.Title)
		case res.Failure != "":
			bad++
			fmt.Printf("FAIL  %-28s %s (%s)\n      %s\n      %s\n", t.Name, t.Title, strings.Join(t.States, " "),
				strings.ReplaceAll(res.Failure, "\n", "\n      "), strings.Join(t.Text, " "))
		default:
			passed++
			fmt.Printf("ok    %-28s %s\n", t.Name, t.Title)
		}
	}
	if notAsked > 0 {
		fmt.Printf("%d not asked\n", notAsked)
	}
	fmt.Printf("%d passed, %d failed\n", passed, bad)
	return bad > 0, nil
}
