"""What clients notice while `pulumi up` replaces a model: one of two replicas, one alone, one with a fallback.

    make parts && .venv/bin/python -m bench.rollout

Real vLLM on the CPU with random weights, LiteLLM and nginx as planned, replaced by Pulumi's real engine in a stack of
its own. The official `openai` client asks without a pause and without retries of its own: streams of seconds, so that
some are under way whenever a replica is stopped, and short plain requests. A stream that ends early has failed; a 503
with Retry-After is a polite refusal, and counts as a failure where another replica or a fallback could have answered.

Goals: 0 failed with two replicas, 0 failed with a fallback. Of one replica alone: from its stop (requests in flight go
on, others are refused from then on) to the first completion of the new one, at most 2 s more than the floor. The floor
is the time that the requests in flight took to end, and a bare start of the same container by `docker run` until it has
answered a completion, in the same run. When steps of the replacement happened is by Docker's own events.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import openai

from components.stack import InferenceStack, InferenceStackArgs
from planning.containers import ContainerPlan
from planning.names import VLLM_PORT
from planning.stack import plan_stack
from stack_configs.schema.stack import StackSpec
from tests.contract.gateway import free_port
from tests.deploy.clone import remove_leftovers
from tests.docker_run import Sandbox, docker, need_image
from tests.hosts.engine import Project
from tools.setup import images
from tools.setup.progress import run_step

STACK = "rollout"
KEY = "sk-rollout-0123456789abcdef"
IMAGES = ("vllm", "litellm", "nginx", "prometheus", "alertmanager", "node-exporter")
CASES = {"pair": "two replicas", "backed": "one replica with a fallback", "alone": "one replica alone"}
GOAL_S = 2.0
BEFORE_S, AFTER_S = 5.0, 5.0
"""How long clients ask before the replacement begins, and after it has ended."""
PAUSE_S = 0.05
"""Between a client's plain requests, and after a refusal."""
MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


@dataclass
class Load:
    """What clients asked and got; times are of the machine's clock, as Docker's events are."""

    url: str
    model: str
    stream_tokens: int
    answered: list[tuple[str, float, float]] = field(default_factory=list)
    """Kind, begin, end."""
    refused: list[float] = field(default_factory=list)
    """How long each 503 with Retry-After took, seconds."""
    failed: list[str] = field(default_factory=list)
    bytes_at: list[float] = field(default_factory=list)
    """When something of an answer came."""
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self, streams: int, plain: int) -> Iterator["Load"]:
        threads = [
            threading.Thread(target=self._ask, args=(kind,)) for kind in ["stream"] * streams + ["plain"] * plain
        ]
        for thread in threads:
            thread.start()
        try:
            time.sleep(BEFORE_S)
            yield self
            time.sleep(AFTER_S)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _ask(self, kind: str) -> None:
        client = openai.OpenAI(base_url=self.url, api_key=KEY, max_retries=0, timeout=120)
        while not self._stop.is_set():
            began = time.time()
            try:
                self._stream(client) if kind == "stream" else self._plain(client)
                self.answered.append((kind, began, time.time()))
                if kind == "stream":
                    continue
            except openai.APIStatusError as error:
                if error.status_code == 503 and error.response.headers.get("retry-after"):
                    self.refused.append(time.time() - began)
                else:
                    self.failed.append(f"{kind}: {error}")
            except (openai.OpenAIError, EarlyEnd) as error:
                self.failed.append(f"{kind}: {type(error).__name__}: {error}")
            time.sleep(PAUSE_S)

    def _stream(self, client: openai.OpenAI) -> None:
        reason = None
        for chunk in client.chat.completions.create(
            model=self.model,
            messages=MESSAGES,
            max_tokens=self.stream_tokens,
            stream=True,
            extra_body={"ignore_eos": True},
        ):
            self.bytes_at.append(time.time())
            reason = chunk.choices[0].finish_reason if chunk.choices else reason
        if reason != "length":
            raise EarlyEnd(f"the stream ended with {reason}")

    def _plain(self, client: openai.OpenAI) -> None:
        complete(client, self.model)
        self.bytes_at.append(time.time())

    def told(self) -> str:
        kinds = Counter(kind for kind, _, _ in self.answered)
        longest = {kind: max(end - begin for k, begin, end in self.answered if k == kind) for kind in kinds}
        answers = ", ".join(f"{kinds[kind]} {kind} (longest {longest[kind]:.1f} s)" for kind in sorted(kinds))
        refused = f"{len(self.refused)}" + (f" (longest {max(self.refused):.1f} s)" if self.refused else "")
        return f"answered {answers}; refused {refused}; failed {len(self.failed)}"


class EarlyEnd(Exception):
    """A stream that is shorter than was asked for."""


def complete(client: openai.OpenAI, model: str) -> None:
    client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=4)


def spec_of(cases: Sequence[str], drain_s: int) -> StackSpec:
    here = {"host": "here"}
    replicas = {"pair": 2, "alone": 1, "backed": 1, "spare": 1}
    models = [*cases, *(["spare"] if "backed" in cases else [])]
    shape = {"max_model_len": 2048, "cpu_kv_cache_mib": 64, "memory_mib": 3072, "start_timeout_s": 300}
    return StackSpec.model_validate(
        {
            "stack": STACK,
            "file": {
                "versions": "2026.11",
                "hosts": {"here": {"connection": {"kind": "local"}}},
                "models": {
                    name: {
                        **shape,
                        "source": {"repo": "some/model", "revision": "0" * 40},
                        "replicas": [here] * replicas[name],
                        "drain_timeout_s": drain_s,
                    }
                    for name in models
                },
                "gateway": {
                    "port": free_port(),
                    "keys": {"me": {}},
                    "fallbacks": {"backed": ["spare"]} if "backed" in cases else {},
                },
                "observability": {
                    "prometheus": {"port": free_port()},
                    "alertmanager": {"port": free_port()},
                },
            },
            "images": {
                {"vllm": "vllm-cpu"}.get(name, name): {"ref": need_image(name), "starts_in_s": 1} for name in IMAGES
            },
            "weights": "random",
            "key_hashes": {"me": hashlib.sha256(KEY.encode()).hexdigest()},
        }
    )


def changed(spec: StackSpec, model: str) -> StackSpec:
    """The model with another argument, as a user changes it."""
    data = spec.model_dump()
    data["file"]["models"][model]["max_num_seqs"] -= 1
    return StackSpec.model_validate(data)


@dataclass(frozen=True)
class Step:
    """What Docker says happened to a replica's container."""

    at: float
    service: str
    container: str
    what: str


@contextmanager
def watched(model: str) -> Iterator[list[Step]]:
    """What happens to the model's containers, complete at the end. Docker itself remembers the last 256 events only."""
    kinds = [f"--filter=event={what}" for what in ("create", "kill", "die", "start", "health_status", "destroy")]
    watch = subprocess.Popen(
        ["docker", "events", f"--filter=label=inference-stack.stack={STACK}", *kinds, "--format={{json .}}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    found: list[Step] = []
    try:
        yield found
    finally:
        watch.terminate()
        said, _ = watch.communicate()
        for row in map(json.loads, said.splitlines()):
            of = row["Actor"]["Attributes"]
            if of["inference-stack.service"].startswith(f"{model}-"):
                what = row["Action"] + (f" {of['signal']}" if "signal" in of else "")
                found.append(Step(row["timeNano"] / 1e9, of["inference-stack.service"], row["Actor"]["ID"][:8], what))


@dataclass(frozen=True)
class Away:
    """A replica's time without an answer, seconds; `stop` and the like are moments."""

    stop: float
    ended: float
    started: float
    healthy: float
    last_byte: float
    first_answer: float

    @property
    def drain_s(self) -> float:
        return self.ended - self.stop


def away(load: Load, happened: Sequence[Step], service: str) -> Away:
    of = [step for step in happened if step.service == service]
    stop = next(step.at for step in of if step.what == "kill 15")
    ended = next(step.at for step in of if step.what == "die")
    started = next(step.at for step in of if step.what == "start" and step.at > ended)
    healthy = next(step.at for step in of if step.what == "health_status: healthy" and step.at > started)
    return Away(
        stop,
        ended,
        started,
        healthy,
        last_byte=max(at for at in load.bytes_at if at < started),
        first_answer=min(end for _, _, end in load.answered if end > started),
    )


def bare_start(plan: ContainerPlan) -> float:
    """Seconds from the start of the container, which nothing else has to do with, to its first completion."""
    sandbox = Sandbox("rollout-floor")
    try:
        name = sandbox.run(plan, wait=False, volumes={"models": f"inference-{STACK}-models"})
        said = docker("inspect", "--format", "{{.State.StartedAt}}", name).strip()
        started = datetime.fromisoformat(said[:26] + "+00:00").timestamp()
        url = f"http://{sandbox.address(name)}:{VLLM_PORT}/v1"
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)
        while True:
            try:
                complete(client, plan.service.rpartition("-")[0])
                return time.time() - started
            except openai.OpenAIError:
                if time.time() > started + plan.ready_within_s:
                    raise
                time.sleep(PAUSE_S)
    finally:
        sandbox.close()


def show(happened: Sequence[Step], load: Load) -> None:
    begin = happened[0].at if happened else 0
    for step in happened:
        print(f"    {step.at - begin:7.2f} s  {step.service:<9} {step.container}  {step.what}")
    for told, count in Counter(load.failed).most_common(5):
        print(f"    {count} x {told[:300]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; may be given several times")
    parser.add_argument("--streams", type=int, default=3)
    parser.add_argument("--plain", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=150, help="of a stream; it must end within --drain")
    parser.add_argument("--drain", type=int, default=30, help="drain_timeout_s of the models")
    parser.add_argument("--verbose", action="store_true", help="Docker's events of each replacement")
    given = parser.parse_args()
    cases = [case for case in CASES if case in (given.case or CASES)]
    run_step("Images", lambda step: images.build(list(IMAGES), step))
    remove_leftovers(STACK)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where Pulumi starts programs and plugins
        spec = spec_of(cases, given.drain)
        project = Project(Path(folder), program, {"spec": spec})
        url = f"http://127.0.0.1:{spec.file.gateway.port}/v1"
        (plan,) = (one for one in plan_stack(spec).containers if one.service == f"{cases[-1]}-0")
        try:
            began = time.monotonic()
            project.up()
            print(f"{'deployed':<10} {time.monotonic() - began:.0f} s", flush=True)
            bare = [bare_start(plan)]
            for case in cases:
                load = Load(url, case, given.tokens)
                spec = changed(spec, case)
                project.inputs = {"spec": spec}
                with watched(case) as happened, load.running(given.streams, given.plain):
                    project.up()
                print(f"{CASES[case]}: {load.told()}", flush=True)
                if given.verbose or load.failed:
                    show(happened, load)
                if case == "alone":
                    gap = away(load, happened, "alone-0")
                else:
                    good &= not load.failed and not load.refused
            bare.append(bare_start(plan))
            print(f"bare start of the engine: {bare[0]:.1f} s before, {bare[1]:.1f} s after")
            if "alone" in cases:
                good &= told_of(gap, sum(bare) / len(bare), load)
        finally:
            project.destroy()
            remove_leftovers(STACK)
            os.chdir("/")
    return 0 if good else 1


def told_of(gap: Away, bare_s: float, load: Load) -> bool:
    """Print what one replica alone costs its clients; whether that is within the goal."""
    floor = gap.drain_s + bare_s
    unanswered = gap.first_answer - gap.stop
    more = unanswered - floor
    print(
        f"  requests in flight took {gap.drain_s:.1f} s to end, Docker {gap.started - gap.ended:.1f} s to start the new"
    )
    print(f"  last byte of the old to first completion of the new: {gap.first_answer - gap.last_byte:.1f} s")
    print(f"  stop of the old to first completion of the new: {unanswered:.1f} s, floor {floor:.1f} s")
    print(f"  ratio {unanswered / floor:.2f}, {more:+.1f} s (goal: {GOAL_S:+.1f} s or less)")
    print(f"  healthy {gap.healthy - gap.first_answer:.1f} s after that first completion")
    return more <= GOAL_S and not load.failed


def program(inputs: dict[str, Any]) -> None:
    InferenceStack(STACK, InferenceStackArgs(plan=plan_stack(inputs["spec"])))


if __name__ == "__main__":
    sys.exit(main())
