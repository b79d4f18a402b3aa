"""The game service: rules that users write, matches on a fixed tick, the players' sessions."""
