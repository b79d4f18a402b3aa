// The document server of the tests: FerretDB in one process, on a loopback port, over a folder.
//
//	mongod-for-tests FOLDER [PORT]
//
// It prints its address as one line, `mongodb://127.0.0.1:PORT/`, and ends when its standard input is closed,
// so that it can't outlive the test that started it.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	if len(os.Args) < 2 || len(os.Args) > 3 {
		log.Fatal("usage: mongod-for-tests FOLDER [PORT]")
	}
	folder, port := os.Args[1], "0"
	if len(os.Args) == 3 {
		port = os.Args[2]
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		log.Fatal(err)
	}
	level := slog.LevelError
	if os.Getenv("FERRETDB_LOG") == "debug" {
		level = slog.LevelDebug
	}
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: "127.0.0.1:" + port},
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		Handler:   "sqlite",
		SQLiteURL: "file:" + folder + "/",
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	go func() { fmt.Println(server.MongoDBURI()) }() // waits until Run listens
	if err := server.Run(ctx); err != nil {
		log.Fatal(err)
	}
}
