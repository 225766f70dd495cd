"""How fast GPUs are: each against those of its kind, and the engine against what they carry."""

from statistics import median

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import BlockedByHardware
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.basics.parallel import in_parallel
from fixtures.basics.require import require
from fixtures.clients.inference import stream
from fixtures.fit.budget import Engine
from fixtures.fit.kv import kv_cache
from fixtures.fit.layout import Layout
from fixtures.fit.quantization import declared as scheme_of
from fixtures.fit.roofline import GpuSpeed, active_bytes, layer_weights, of_bandwidth, slowest, speeds
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_13_large_models.launching import declared_layout
from tests_by_module.module_13_large_models.sizing import Declared, served

pytestmark = [
    pytest.mark.needs("gpu", "cuda", "real_engine", role="worker"),
    pytest.mark.needs("managed", why="next_to"),
    pytest.mark.performance,
]

STREAMS, TOKENS = 3, 200
PROMPT = [1000 + n % 5000 for n in range(4000)]


@pytest.fixture(scope="module")
def speed(run: Run, declared: Declared) -> dict[str, list[GpuSpeed]]:
    """Of the GPUs of each node with workers, measured on all nodes at once."""
    equipment = run.equipment()
    names = [node.name for node in declared.nodes]
    return dict(zip(names, in_parallel(lambda name: speeds(equipment[name]), names), strict=True))


@check(
    "M13-20",
    judged="a matrix product in 16 bits and a copy, five seconds each on each GPU: the slowest GPU of a kind against "
    "the fastest, by the medians of half seconds",
    evidence="figures of each GPU",
    by_hand="python gpu_speed.py 5, with the runtime's Python; nvidia-smi -q -d PERFORMANCE",
)
def test_no_gpu_is_slower_than_its_kind(speed: dict[str, list[GpuSpeed]], measure: Measure, evidence: Evidence):
    """No GPU multiplies or copies more slowly than the others of its kind."""
    rows = [
        [node, gpu.index, gpu.name, f"{median(gpu.tflops):.1f}", f"{median(gpu.copy_gb_per_s):.0f}"]
        for node, gpus in speed.items()
        for gpu in gpus
    ]
    evidence.table("speed of each GPU", ["node", "GPU", "name", "TFLOP/s", "GB/s copied"], rows)
    measure("least_tflops", min(median(gpu.tflops) for gpus in speed.values() for gpu in gpus))
    measure("least_copy_gb_per_s", min(median(gpu.copy_gb_per_s) for gpus in speed.values() for gpu in gpus))
    compared = list(slowest(speed))
    if not compared:
        raise BlockedByHardware(f"there are {len(rows)} GPUs, and no two of one kind: nothing to compare")
    rows = [[each.what, each.gpu, f"{each.figure:.1f}", each.than, f"{each.times:.2f}"] for each in compared]
    evidence.table("slowest of each kind", ["figure", "slowest", "its figure", "fastest", "times"], rows)
    measure("slowest_of_fastest", max(each.times for each in compared))
    measure.judge()


@check(
    "M13-21",
    judged="tokens a second of one stream, times the bytes of weights and KV that a token reads, against the bytes "
    "that a copy moves there, with a bound for one GPU and one for tensor parallel ranks; a prompt's arithmetic "
    "against the matrix product",
    evidence="measurements",
    by_hand="stream one completion of 200 tokens; weights and KV in bytes x tokens/s / bandwidth",
)
def test_one_stream_is_near_what_the_memory_carries(
    deployment: Deployment, speed: dict[str, list[GpuSpeed]], declared: Declared, run: Run, measure: Measure
):
    """One stream of tokens uses enough of what the GPUs' memory carries."""
    model = served(run)
    engine = Engine.of(declared.settings, declared.context(model.config.max_position_embeddings))
    kv = kv_cache(model.config, Layout(), 0, engine.kept_in, engine.batched_tokens)
    # the KV of a token in the middle of the answer, by all ranks together
    active = active_bytes(model, scheme_of(model.config)) + kv.of_request(len(PROMPT) + TOKENS // 2)
    layout: Layout = declared_layout(declared.settings.args)
    rates, firsts = [], []
    for number in range(STREAMS):
        prompt = [number + 100, *PROMPT]
        answer = stream(deployment.endpoint, prompt, max_tokens=TOKENS, temperature=0, ignore_eos=True, timeout_s=300)
        assert answer.ok, answer.describe()
        came = answer.counted("completion_tokens")
        assert came == TOKENS, f"{came} tokens came, {TOKENS} were asked for: {answer.describe()}"
        first_s = require(answer.first_token_s, "time of the first token")
        rates.append((TOKENS - 1) / (answer.duration_s - first_s))
        firsts.append(first_s)
    every = [gpu for gpus in speed.values() for gpu in gpus]
    copied, tflops = (median(median(getattr(gpu, what)) for gpu in every) for what in ("copy_gb_per_s", "tflops"))
    measure("tokens_per_s_of_one_stream", median(rates), n=STREAMS)
    carried = of_bandwidth(median(rates), active, copied, layout.tensor)  # a stage waits while another one computes
    if layout.tensor == 1:
        measure("of_bandwidth", carried, n=STREAMS)
    else:
        measure("of_bandwidth_over_gpus", carried, n=STREAMS)
    arithmetic = 2 * layer_weights(model) * len(prompt) / 1e12  # a multiplication and an addition for each weight
    measure("prefill_of_arithmetic", arithmetic / median(firsts) / (tflops * layout.gpus), n=STREAMS)
    measure.judge()
