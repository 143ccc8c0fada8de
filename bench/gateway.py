"""What nginx and LiteLLM cost: streamed tokens per second and time to first token, through them and without them.

    make parts && .venv/bin/python -m bench.gateway simulator
    make up && .venv/bin/python -m bench.gateway vllm

`simulator`: llm-d-inference-sim makes a token every 20 ms for each stream and needs almost no CPU, so that the gateway
is what limits. nginx and LiteLLM are those that the plans make, on networks of their own. A second anchor is nginx
alone: the same nginx, with a simulator where LiteLLM would be.

`vllm`: the stack that runs on this machine. On a CPU the engine and the gateway share the cores, so the ratio says what
a user of this machine gets, not what the gateway alone could do.

All ways are taken in the same run, in turns; the direct one goes to the engine's address on Docker's inner network.
Ratios are way/direct. CPU time is the containers' own, which other work on the machine doesn't change.
"""

import argparse
import os
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import streams
from bench.preview import REPO, activated
from planning.gateway.nginx import plan_nginx
from planning.gateway.nginx_conf import WORKERS
from planning.names import LITELLM_ALIAS, LITELLM_PORT, VLLM_PORT
from tests.contract.gateway import KEYS, free_port, gateway_spec, running_gateway
from tests.docker_run import Sandbox, docker, need_image
from tests.simulator import simulator
from tools.setup import images
from tools.setup.progress import run_step

TOKEN_MS = 20
STREAMS = (1, 8, 32)


@dataclass(frozen=True)
class Way:
    """Where to ask, and the containers in between, whose CPU time is taken."""

    url: str
    key: str
    containers: Sequence[str] = ()


@contextmanager
def simulated(litellm_instances: int) -> Iterator[dict[str, Way]]:
    """Direct to the simulator, through nginx alone, and through nginx and LiteLLM."""
    run_step("Images", lambda step: images.build(["nginx", "litellm", "llm-d-sim"], step))
    port = free_port()
    alone = gateway_spec(nginx=need_image("nginx"), port=port)
    engine = simulator(token_ms=TOKEN_MS, aliases=("chat-0", "chat-1", "spare-0"))
    sandbox = Sandbox("gateway-bench")
    try:
        sandbox.run(simulator(token_ms=TOKEN_MS, aliases=(LITELLM_ALIAS,), port=LITELLM_PORT))
        nginx = sandbox.run(plan_nginx(alone))
        with running_gateway(engine, instances=litellm_instances) as gateway:
            direct = f"http://{gateway.sandbox.address(gateway.engine)}:{VLLM_PORT}/v1"
            through = f"http://127.0.0.1:{gateway.port}/v1"
            yield {
                "direct": Way(direct, KEYS["me"]),
                "nginx": Way(f"http://127.0.0.1:{port}/v1", KEYS["me"], (nginx,)),
                "nginx+LiteLLM": Way(through, KEYS["me"], (gateway.nginx, *gateway.litellm)),
            }
    finally:
        sandbox.close()


def deployed(stack: str) -> dict[str, Way]:
    """Direct to the first replica of a running stack, and through its gateway."""
    env = activated()

    def said(*argv: str) -> str:
        return subprocess.run(argv, cwd=REPO, env=env, capture_output=True, text=True, check=True).stdout.strip()

    form = f'{{{{(index .NetworkSettings.Networks "inference-{stack}-inner").IPAddress}}}}'
    address = said("docker", "inspect", "--format", form, f"inference-{stack}-{streams.MODEL}-0")
    key = said("make", "-s", "key", f"STACK={stack}")
    label = (f"label=inference-stack.stack={stack}", "label=inference-stack.component=gateway")
    gateway = said("docker", "ps", *(word for one in label for word in ("--filter", one)), "--format", "{{.Names}}")
    url = said("pulumi", "stack", "output", "url", "-s", stack)
    return {
        "direct": Way(f"http://{address}:{VLLM_PORT}/v1", key),
        "nginx+LiteLLM": Way(url, key, gateway.split()),
    }


def cpu_s(containers: Sequence[str]) -> float:
    """CPU seconds of the containers' living processes since their start."""
    pids = [line for name in containers for line in docker("top", name, "-o", "pid").split()[1:]]
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")


def measure(ways: Mapping[str, Way], rounds: int, tokens: int) -> None:
    for way in ways.values():
        streams.run(way.url, way.key, 2, tokens)
    for count in STREAMS:
        seen: dict[str, list[streams.Seen]] = {name: [] for name in ways}
        cpu = dict.fromkeys(ways, 0.0)
        for _ in range(rounds):
            for name, way in ways.items():
                before = cpu_s(way.containers)
                seen[name].append(streams.run(way.url, way.key, count, tokens))
                cpu[name] += cpu_s(way.containers) - before
        rate = {name: statistics.median(run.tokens_s for run in runs) for name, runs in seen.items()}
        ttft = {name: 1000 * statistics.median(run.ttft_s for run in runs) for name, runs in seen.items()}
        print(f"{count} streams:")
        for name, way in ways.items():
            line = f"  {name:<13} {rate[name]:6.0f} tokens/s, TTFT {ttft[name]:5.0f} ms"
            if name != "direct":
                line += f"; ratios {rate[name] / rate['direct']:.2f} and {ttft[name] / ttft['direct']:.2f}"
            if way.containers:
                line += f"; {1e6 * cpu[name] / (rounds * count * tokens):.0f} µs of CPU a token"
            print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=("simulator", "vllm"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--stack", default="dev", help="for vllm: the stack that runs")
    parser.add_argument("--litellm", type=int, default=1, help="for simulator: instances of LiteLLM, a worker each")
    args = parser.parse_args()
    told = (
        f"{args.tokens} tokens an answer, median of {args.rounds} rounds; {os.cpu_count()} cores shared with the client"
    )
    if args.engine == "vllm":
        ways = deployed(args.stack)
        instances = sum("-litellm-" in name for name in ways["nginx+LiteLLM"].containers)
        print(f"vLLM, {WORKERS} nginx workers, {instances} LiteLLM worker(s), {told}")
        measure(ways, args.rounds, args.tokens)
    else:
        with simulated(args.litellm) as ways:
            print(
                f"Simulator at {TOKEN_MS} ms a token, {WORKERS} nginx workers, {args.litellm} LiteLLM worker(s), {told}"
            )
            measure(ways, args.rounds, args.tokens)


if __name__ == "__main__":
    main()
