// A gnet echo on one event loop, TCP or UDP. Prints its address.
package main

import (
	"fmt"
	"log"
	"net"
	"os"

	"github.com/panjf2000/gnet/v2"
)

type echo struct {
	gnet.BuiltinEventEngine
	address string
}

func (e *echo) OnBoot(gnet.Engine) gnet.Action {
	fmt.Println(e.address)
	return gnet.None
}

func (e *echo) OnTraffic(c gnet.Conn) gnet.Action {
	data, _ := c.Next(-1)
	if _, err := c.Write(data); err != nil {
		return gnet.Close
	}
	return gnet.None
}

// gnet does not tell which port it has got, so a free one is looked for here.
func freeTCP() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func freeUDP() string {
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer socket.Close()
	return socket.LocalAddr().String()
}

func main() {
	network, address := "tcp", ""
	if len(os.Args) > 1 {
		network = os.Args[1]
	}
	if network == "udp" {
		address = freeUDP()
	} else {
		address = freeTCP()
	}
	handler := &echo{address: address}
	options := []gnet.Option{
		gnet.WithNumEventLoop(1),
		gnet.WithTCPNoDelay(gnet.TCPNoDelay),
	}
	log.Fatal(gnet.Run(handler, network+"://"+address, options...))
}
