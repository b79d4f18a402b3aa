"""The services of zmqgame, and what a game is written with."""

from zmqgame.play.rules import Action, Event, Input, Match, Phases, Refused, Result

__all__ = ["Action", "Event", "Input", "Match", "Phases", "Refused", "Result"]
