"""The configuration tables of the services, gathered so that every process knows every table.

One line for each module that holds a table; such a module imports nothing heavy.
"""

from zmqgame.stats import config as stats_config

__all__ = ["stats_config"]
