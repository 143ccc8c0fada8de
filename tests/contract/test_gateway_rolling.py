"""Two LiteLLM instances, replaced one after the other under load: no client sees an error."""

import http.client
import json
import threading
import time
from dataclasses import replace

from planning.gateway.plan import plan_gateway
from tests.contract.gateway import KEYS, RunningGateway, running_gateway
from tests.docker_run import docker, inspect


def test_replacing_both_instances_under_load_fails_no_request() -> None:
    with running_gateway(instances=2) as gateway:
        stop = threading.Event()
        outcomes: list[str] = []
        clients = [threading.Thread(target=_client, args=(gateway, n % 2 == 0, stop, outcomes)) for n in range(6)]
        for client in clients:
            client.start()
        try:
            time.sleep(2)
            for plan in plan_gateway(gateway.spec).litellm:
                # As an `up` does it: the old one goes, the new one comes and is healthy, then the next one.
                name = gateway.sandbox.container(plan.service)
                docker("stop", name)
                assert inspect(name)["State"]["ExitCode"] in (0, 143), "it had to be killed"
                docker("rm", name)
                gateway.sandbox.run(replace(plan))
            time.sleep(2)
        finally:
            stop.set()
            for client in clients:
                client.join()
        assert [outcome for outcome in outcomes if outcome != "ok"] == []
        assert len(outcomes) > 200


def _client(gateway: RunningGateway, stream: bool, stop: threading.Event, outcomes: list[str]) -> None:
    """Asks again and again, in streams of 1 s or in short answers."""
    text = "tokens=10 delay=0.1" if stream else "tokens=1 delay=0.05"
    body = json.dumps({"model": "chat", "stream": stream, "messages": [{"role": "user", "content": text}]})
    headers = {"Authorization": f"Bearer {KEYS['me']}", "Content-Type": "application/json"}
    while not stop.is_set():
        try:
            connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
            connection.request("POST", "/v1/chat/completions", body, headers)
            answer = connection.getresponse()
            got = answer.read().decode()
            whole = got.count("tok ") == 10 and got.endswith("data: [DONE]\n\n") if stream else "tok " in got
            outcomes.append("ok" if answer.status == 200 and whole else f"{answer.status} {got[-300:]}")
            connection.close()
        except OSError as error:
            outcomes.append(repr(error))
