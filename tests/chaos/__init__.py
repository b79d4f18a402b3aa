"""Chaos on real processes: `python -m tests.chaos`, or `make chaos CYCLES=1000 SEED=1`.

A hub, sender nodes, hosting nodes and clients run as processes of their own; the controller kills, stops,
cuts and fills, then lets everything come to rest and asks whether each receipt was true.

| module | what it is |
|---|---|
| `__main__` | flags, the last line |
| `run` | cycles one after the other, state of the run in its folder |
| `stage` | the processes and routes of a run, and when they are at rest |
| `child` | one process: started again when it ends, killed, stopped, told what to do |
| `record` | the lines in which a child writes down what happened, and how they are read |
| `sender`, `hosting`, `client` | the programs of the children |
| `faults` | one coroutine a fault: does it and ends it; `store_faults`: those of the mailbox |
| `namespace` | a hosting node in a network namespace of its own |
| `wal` | what a crash may leave at the end of SQLite's log |
| `ledger` | the checker: acked, unknown, lost, duplicated, out of order, never sent |
| `restart` | `python -m tests.chaos.restart`: how long a new hub needs for 10,000 players on 20 nodes |
"""
