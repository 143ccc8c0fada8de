"""What a request pays for the mesh: `tailscale serve`, against a node's own address and the plain network.

    .venv/bin/python -m bench.mesh

Two hosts in containers and a headscale. The engine is llm-d-inference-sim without any waiting of its own; the client
runs on the other host. The floor is the plain network. Three ways are asked in turns, so that load from elsewhere
meets all alike: short answers one after another, and streams of 500 tokens side by side.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from planning.names import FRONT_PORT
from tests.docker_run import docker
from tests.hosts.host import Host, bare_hosts
from tests.hosts.repository import Repository, tailscale_package
from tests.network import programs
from tests.network.headscale import control_server
from tests.simulator import simulator_image

BARE_PORT = FRONT_PORT + 100
CLIENT = """
import concurrent.futures as futures, http.client, json, sys, time
host, port, short, streams = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
def ask(connection, tokens, stream):
    body = {"model": "chat", "prompt": "x", "max_tokens": tokens, "stream": stream, "ignore_eos": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    return len(answer.read())
def one_stream(_):
    connection = http.client.HTTPConnection(host, port, timeout=60)
    return ask(connection, 500, True)
kept = http.client.HTTPConnection(host, port, timeout=60)
ask(kept, 1, False)
took = []
for _ in range(short):
    started = time.perf_counter()
    ask(kept, 1, False)
    took.append(time.perf_counter() - started)
started = time.perf_counter()
with futures.ThreadPoolExecutor(streams) as pool:
    read = sum(pool.map(one_stream, range(streams)))
print(json.dumps({"short_s": took, "bytes_per_s": read / (time.perf_counter() - started)}))
"""


def joined(host: Host, url: str, key: str) -> str:
    """Make it a node; its address in the mesh."""
    host.inside("dpkg -i /srv/repository/tailscale_*.deb >/dev/null 2>&1 || apt-get -qy -f install >/dev/null 2>&1")
    host.inside(f"tailscale up --login-server={url} --auth-key={key} --accept-dns=false")
    return host.inside("tailscale ip -4")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.mesh", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--short", type=int, default=200, help="answers of one token, each round and way")
    parser.add_argument("--streams", type=int, default=16, help="side by side")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository(Path(folder) / "apt")
        repository.publish(tailscale_package(programs.folder()))
        control = Path(folder) / "headscale"
        control.mkdir()
        with (
            bare_hosts("client", "engine", distribution="debian-13") as (client, engine),
            control_server(control) as server,
        ):
            server.say("users", "create", "bench")
            for host in (client, engine):
                repository.copy_to(host)
                server.trusted_by(host)
                host.inside("apt-get update -q >/dev/null && apt-get install -qy iptables python3 >/dev/null 2>&1")
                key = server.say("preauthkeys", "create", "--user", "1").splitlines()[-1]
                at = joined(host, server.url, key)
            _start_engine(engine, Path(folder))
            engine.inside(f"tailscale serve --bg --tcp={FRONT_PORT} tcp://127.0.0.1:{BARE_PORT} >/dev/null")
            ways = {
                "plain network": (engine.address, BARE_PORT),
                "mesh, the node's address": (at, BARE_PORT),
                "mesh, tailscale serve": (at, FRONT_PORT),
            }
            measured = _measure(client, ways, args.rounds, args.short, args.streams)
    floor_s, floor_rate = measured["plain network"]
    print(f"{'':<26} {'median of a short answer':>26} {'streams':>24}")
    for way, (short_s, rate) in measured.items():
        ratio = f"{short_s * 1e3:6.2f} ms  {short_s / floor_s:5.2f}"
        print(f"{way:<26} {ratio:>26} {rate / 2**20:9.1f} MiB/s  {rate / floor_rate:5.2f}")
    return 0


def _start_engine(host: Host, folder: Path) -> None:
    made = docker("create", simulator_image()).strip()
    docker("cp", f"{made}:/app/llm-d-inference-sim", str(folder / "engine"))
    docker("rm", made)
    subprocess.run(["docker", "cp", folder / "engine", f"{host.container}:/usr/bin/engine"], check=True)
    flags = "--model chat --max-num-seqs 256 --max-model-len 32768 --time-to-first-token 0ms --inter-token-latency 0ms"
    host.inside(f"systemd-run -q --unit engine /usr/bin/engine --port {BARE_PORT} {flags}")


def _measure(
    client: Host, ways: dict[str, tuple[str, int]], rounds: int, short: int, streams: int
) -> dict[str, tuple[float, float]]:
    """Way → median seconds of a short answer, median bytes per second of the streams."""
    client.put("/srv/client.py", CLIENT)
    took: dict[str, list[float]] = {way: [] for way in ways}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        for way, (address, port) in ways.items():
            said = json.loads(client.inside(f"python3 /srv/client.py {address} {port} {short} {streams}"))
            if turn:  # the first one warms up: connections, paths between nodes
                took[way] += said["short_s"]
                rates[way].append(said["bytes_per_s"])
    return {way: (statistics.median(took[way]), statistics.median(rates[way])) for way in ways}


if __name__ == "__main__":
    sys.exit(main())
