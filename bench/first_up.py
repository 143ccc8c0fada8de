"""Where the time of the last `make up` or `make parts` went, and which chain bounds it.

    make up && python3 -m bench.first_up

Reads .state/timings.json. The steps before the first that runs alone again are side by side: their longest is the
chain that bounds them. Ratio: the whole against the larger of that chain's sum, as it was in this run, and the CPU
seconds over the cores. Docker's own CPU seconds (it copies the images' files) are not among them. Goal: ratio ≤ 1.2.
"""

import json
import os
from pathlib import Path
from typing import Any

TIMINGS = Path(__file__).resolve().parent.parent / ".state" / "timings.json"


def main() -> None:
    steps: list[dict[str, Any]] = json.loads(TIMINGS.read_text())["steps"]
    begin = min(step["started"] for step in steps)
    end = max(step["started"] + step["seconds"] for step in steps)
    whole = end - begin
    for step in sorted(steps, key=lambda s: s["started"]):
        begun, lasted = step["started"] - begin, step["seconds"]
        print(f"{begun:7.1f} s  +{lasted:6.1f} s  {lasted / whole:4.0%}  {step['step']}")
    chain, at = [], end
    for step in sorted(steps, key=lambda s: s["started"] + s["seconds"], reverse=True):
        if step["started"] + step["seconds"] <= at + 0.5:
            chain.append(step)
            at = step["started"]
    bound = sum(step["seconds"] for step in chain)
    print(f"whole {whole:.1f} s; longest chain {' ← '.join(s['step'] for s in chain)}: {bound:.1f} s")
    cpu, cores = max(step["cpu_s"] for step in steps), len(os.sched_getaffinity(0))
    print(f"CPU {cpu:.1f} s on {cores} cores: {cpu / cores:.1f} s at least")
    print(f"ratio {whole / max(bound, cpu / cores):.2f}")


if __name__ == "__main__":
    main()
