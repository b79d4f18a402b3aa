// A load of nats.go clients for the benchmarks of the bus, with the same words as rust/bench: it says `ready`, runs a
// round for each line on stdin, answers it with a line of figures, and ends with stdin.
package main

import (
	"bufio"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// Options of the command line, those of a round over them.
type options map[string]string

func parse(words []string, base options) options {
	all := options{}
	for key, value := range base {
		all[key] = value
	}
	for _, word := range words {
		if key, value, found := strings.Cut(word, "="); found {
			all[key] = value
		}
	}
	return all
}

func (o options) number(key string, fallback int) int {
	if value, err := strconv.Atoi(o[key]); err == nil {
		return value
	}
	return fallback
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "nats load:", err)
		os.Exit(1)
	}
	return value
}

func rounds(base options, round func(options)) {
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		round(parse(strings.Fields(lines.Text()), base))
	}
}

func connect(address string) *nats.Conn {
	return must(nats.Connect("nats://"+address, nats.ReconnectBufSize(-1)))
}

// rtt: `count` requests to `echo`, one after the other.
func rtt(address string, base options) {
	conn := connect(address)
	rounds(base, func(o options) {
		payload := make([]byte, o.number("bytes", 64))
		times := make([]int64, 0, o.number("count", 0))
		for range o.number("count", 0) {
			begun := time.Now()
			must(conn.Request("echo", payload, 5*time.Second))
			times = append(times, time.Since(begun).Nanoseconds())
		}
		sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
		at := func(share float64) float64 {
			return float64(times[int(float64(len(times)-1)*share)]) / 1e3
		}
		fmt.Printf("{\"count\": %d, \"p50_us\": %.2f, \"p99_us\": %.2f}\n", len(times), at(0.5), at(0.99))
	})
}

// host: answers `echo`; counts what comes to `player.*`, and to `group` on `subscriptions` subscriptions of `nodes`
// connections; says on the subject that `want` named when all of it is there.
func host(address string, base options) {
	var counted, wanted atomic.Int64
	var reply atomic.Value
	count := func(conn *nats.Conn) nats.MsgHandler {
		return func(_ *nats.Msg) {
			if counted.Add(1) == wanted.Load() {
				must(0, conn.Publish(reply.Load().(string), nil))
			}
		}
	}
	for node := range base.number("nodes", 1) {
		conn := connect(address)
		subscribe := func(subject string, handler nats.MsgHandler) {
			must(0, must(conn.Subscribe(subject, handler)).SetPendingLimits(-1, -1))
		}
		if node == 0 {
			subscribe("echo", func(message *nats.Msg) { must(0, message.Respond(message.Data)) })
			subscribe("want", func(message *nats.Msg) {
				counted.Store(0)
				wanted.Store(int64(must(strconv.Atoi(string(message.Data)))))
				reply.Store(message.Reply + ".all")
				must(0, message.Respond(nil))
			})
			subscribe("player.*", count(conn))
		}
		for range base.number("subscriptions", 0) / base.number("nodes", 1) {
			subscribe("group", count(conn))
		}
		must(0, conn.Flush())
	}
	rounds(base, func(options) {})
}

// send: `count` messages to `players` in turn, or (`group=1`) to the group; ends when the host has all of it.
func send(address string, base options) {
	conn := connect(address)
	rounds(base, func(o options) {
		payload := make([]byte, o.number("bytes", 64))
		subjects := []string{"group"}
		if o.number("group", 0) == 0 {
			subjects = nil
			for n := range o.number("players", 1) {
				subjects = append(subjects, fmt.Sprintf("player.p%d", n))
			}
		}
		count := o.number("count", 0)
		total := count * o.number("copies", 1)
		inbox := nats.NewInbox()
		ready := must(conn.SubscribeSync(inbox))
		all := must(conn.SubscribeSync(inbox + ".all"))
		must(0, conn.PublishRequest("want", inbox, []byte(strconv.Itoa(total))))
		must(ready.NextMsg(20 * time.Second))
		begun := time.Now()
		for n := range count {
			must(0, conn.Publish(subjects[n%len(subjects)], payload))
		}
		must(0, conn.Flush())
		must(all.NextMsg(120 * time.Second))
		seconds := time.Since(begun).Seconds()
		must(0, ready.Unsubscribe())
		must(0, all.Unsubscribe())
		fmt.Printf("{\"sent\": %d, \"per_s\": %.0f, \"recipients_per_s\": %.0f}\n", count,
			float64(count)/seconds, float64(total)/seconds)
	})
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "write rtt|host|send HOST:PORT [key=value ...]")
		os.Exit(2)
	}
	loads := map[string]func(string, options){"rtt": rtt, "host": host, "send": send}
	base := parse(os.Args[3:], nil)
	loads[os.Args[1]](os.Args[2], base)
}
