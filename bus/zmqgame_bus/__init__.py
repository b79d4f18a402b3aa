"""The message bus of zmqgame."""
