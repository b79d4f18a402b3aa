"""The services of zmqgame."""
