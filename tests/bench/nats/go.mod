module zmqgame/tests/bench/nats

go 1.22
