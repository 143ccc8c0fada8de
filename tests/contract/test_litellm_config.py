"""Every key of our typed config is one that the pinned LiteLLM knows: it would ignore a wrong one without a word."""

import json
from dataclasses import fields

from planning.gateway import litellm_config as config
from tests.docker_run import docker, need_image

ASK = """
import inspect, json, litellm
from litellm.proxy._types import ConfigGeneralSettings
from litellm.router import Router
from litellm.types.router import GenericLiteLLMParams, ModelInfo, RetryPolicy
import litellm.proxy.proxy_server as server
source = inspect.getsource(server.ProxyConfig)
print(json.dumps({
    "LitellmParams": [*GenericLiteLLMParams.model_fields, "model"],
    "ModelInfo": list(ModelInfo.model_fields),
    "RetryPolicy": list(RetryPolicy.model_fields),
    "RouterSettings": list(inspect.signature(Router.__init__).parameters),
    "GeneralSettings": list(ConfigGeneralSettings.model_fields),
    "settings": [name for name in dir(litellm)],
    "read": source,
}))
"""


def test_litellm_knows_every_key() -> None:
    image = need_image("litellm")
    environment = ("--env", "LITELLM_LOCAL_MODEL_COST_MAP=True", "--env", "HOME=/tmp", "--network", "none")
    output = docker("run", "--rm", *environment, "--entrypoint", "python3", image, "-c", ASK)
    known = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    for ours in (config.LitellmParams, config.ModelInfo, config.RetryPolicy, config.RouterSettings):
        assert {f.name for f in fields(ours)} <= set(known[ours.__name__])
    for settings, names in ((config.GeneralSettings, "GeneralSettings"), (config.LitellmSettings, "settings")):
        missing = {f.name for f in fields(settings)} - set(known[names])
        assert [name for name in missing if f'"{name}"' not in known["read"]] == []
