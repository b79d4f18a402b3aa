"""`zmqgame-stats`, except that its second batch is confirmed and never inserted."""

import sys

from zmqgame.stats.service import StatsService
from zmqgame.stats.stats import main

insert = StatsService._insert
batches = 0


def lossy(self, plan):
    global batches
    batches += 1
    if batches != 2:
        insert(self, plan)


StatsService._insert = lossy
sys.exit(main())
