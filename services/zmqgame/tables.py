"""The configuration tables of the services, gathered so that every process knows every table.

One line for each module that holds a table; such a module imports nothing heavy.
"""

from zmqgame.manage import config as manage_config
from zmqgame.play import config as play_config
from zmqgame.stats import config as stats_config

__all__ = ["manage_config", "play_config", "stats_config"]
