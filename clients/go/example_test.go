package satchelclient_test

import (
	"context"
	"fmt"
	"log"

	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
)

func Example() {
	ctx := context.Background()
	server, stop := startFake() // in an app: the address of your server
	defer stop()
	c, err := satchelclient.New(satchelclient.Config{
		BaseURL: server.url,
		Store:   memstore.New(), // on a device: sqlitestore.Open
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := c.SignIn(ctx, satchelclient.Credentials{Login: "lina", Password: "right", Platform: "go"}); err != nil {
		log.Fatal(err)
	}
	id, err := c.Create(ctx, "visit", satchelclient.Fields{"note": "met the buyer"}) // works without a signal
	if err != nil {
		log.Fatal(err)
	}
	result, err := c.Sync(ctx)
	if err != nil {
		log.Fatal(err)
	}
	visit, err := c.Get(ctx, "visit", id)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Settled[0].Verdict.Status, visit.Text("note"), visit.Pending)
	// Output: STATUS_APPLIED met the buyer false
}
