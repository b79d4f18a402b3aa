"""The manager: queue, matches, placement on game servers, event log."""
