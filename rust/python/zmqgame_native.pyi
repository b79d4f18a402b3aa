"""The native module of zmqgame: hub, node core, edge, decoders, race physics."""

__version__: str
