"""Plants that prove the collectives of module 07: at a rank, and on the link between two nodes."""

from fixtures.cluster.labs.lab import Lab
from fixtures.cluster.labs.plan import NICS
from fixtures.fabric.collectives import Rank
from fixtures.plants.lab import OnTheLab
from fixtures.plants.plant import point


class OfCollectives(OnTheLab):
    """In a lab whose runtime has torch."""

    inventory = "lab-vllm"
    nightly = True


class RankGivesWrongValues(OfCollectives):
    """One value of what one rank gives to collectives is another one."""

    catches = {"M07-22": "values at rank 0 on dgx-spark-01 are wrong"}
    CODE = """
import collective_rank as c
class Rank(c.Rank):
    def given(self, values):
        values[len(values) // 2] += 1
        return values
c.main(Rank)
"""

    @point("module_07.rank")
    def of_the_victim(self, argv: list[str], rank: Rank) -> list[str]:
        return [argv[0], "-c", self.CODE] if rank.node.name == self.victim.name else argv


class LinkOfCollectivesSlow(OfCollectives):
    """What one node sends over the data link is held to 20 Mb/s."""

    catches = {"M07-23": "slow collectives"}
    failures = (67,)
    TBF = ("rate", "20mbit", "burst", "64k", "latency", "100ms")

    def lab_up(self, lab: Lab) -> None:
        argv = ["tc", "qdisc", "add", "dev", NICS["data"], "root", "tbf", *self.TBF]
        lab.node_run(self.victim.name, argv)
