"""Plants that prove the checks of module 09."""

from fixtures.baseline.second_client import Bodies
from fixtures.plants.engines import of_other_weights, planted_in_engine
from fixtures.plants.plant import Plant, point
from fixtures.product.runtimes.provision import ServedModel
from fixtures.product.services.vllm_server import VllmServer


class ReplicaMissing(Plant):
    """One of the two servers of the baseline is not started."""

    catches = {"M09-01": "servers belong on"}
    nightly = True
    inventory = "lab-vllm"

    @point("module_09.replicas")
    def change(self, servers: list[VllmServer]) -> list[VllmServer]:
        return servers[:1]


class ReplicaCrippled(Plant):
    """Each step of one server of the baseline takes 0.1 s longer."""

    catches = {"M09-04": "slower_server_itl_ratio"}
    nightly = True
    inventory = "lab-vllm"

    @point("module_09.replicas")
    def change(self, servers: list[VllmServer]) -> list[VllmServer]:
        planted_in_engine(servers[-1], "slow_steps")
        return servers


class ReplicaOfOtherWeights(Plant):
    """One server of the baseline serves a model of the same name with other weights."""

    catches = {"M09-01": "are not alike", "M09-02": "logprob_gap"}
    nightly = True
    inventory = "lab-vllm"

    @point("module_09.replicas")
    def change(self, servers: list[VllmServer]) -> list[VllmServer]:
        last = servers[-1]
        other = ServedModel(of_other_weights(last.node, last.engine_args.model.path))
        described = (last.name, last.node, last.runtime, other, last.engine_args.model_name)
        changed = VllmServer(*described, nth_on_node=last.nth_on_node)
        return [*servers[:-1], changed]


class SecondClientAsksForLess(Plant):
    """AIPerf is given the requests of the suite's own client with one token of the answer less."""

    catches = {"M09-07": "tokens were asked for"}
    nightly = True
    inventory = "lab-vllm"

    @point("module_09.second_client")
    def shorten(self, bodies: Bodies) -> Bodies:
        return {number: body | {"max_tokens": body["max_tokens"] - 1} for number, body in bodies.items()}


NOT_PLANTED = {
    "M09-03": "The client is the suite's own. A self-test proves how it spreads requests.",
    "M09-05": "It only records.",
    "M09-06": "Self-tests of the baseline prove what its file must hold.",
}
