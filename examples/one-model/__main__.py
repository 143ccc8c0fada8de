"""Another Pulumi program that serves one model with this repository's components, without gateway and monitoring.

    cd examples/one-model && PYTHONPATH=../.. pulumi preview

It decides with `planning`, as the program in the repository's root does, and hands the plan to a component.
"""

import pulumi

from components.containers import Runtime, make_networks, make_volume
from components.naming import Names
from components.serving.model_server import ModelServer, ModelServerArgs
from planning.names import MODELS_VOLUME
from planning.serving.plan import plan_model
from stack_configs.load import Settings, load


def program() -> None:
    settings = Settings(images="built", weights="random", key_hashes={"me": "0" * 64})
    spec = load("dev", settings)
    names = Names("one-model")
    opts = pulumi.ResourceOptions()
    runtime = Runtime(
        names=names,
        networks=make_networks(names, opts),
        volumes={MODELS_VOLUME: make_volume(names, MODELS_VOLUME, "serving", opts)},
    )
    server = ModelServer("chat", ModelServerArgs(plan=plan_model("chat", spec), runtimes={"local": runtime}))
    pulumi.export("replicas", server.replicas)


program()
