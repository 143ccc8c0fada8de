"""Another program with our components, on the real engine."""

import json

from tests.deploy.clone import Clone


def test_another_program_is_previewed_with_our_components(clone: Clone) -> None:
    """examples/one-model by the real Pulumi, with a backend of its own. What it would deploy is deployed above."""
    backend = clone.path.parent / "example-backend"
    backend.mkdir()
    mine = ". ./activate && cd examples/one-model && export PULUMI_CONFIG_PASSPHRASE=x"
    mine += f" PULUMI_BACKEND_URL=file://{backend}"
    clone.run("bash", "-c", f"{mine} && pulumi stack init example")
    line = "PYTHONPATH=../.. pulumi preview -s example --non-interactive --json"
    preview = json.loads(clone.run("bash", "-c", f"{mine} && {line}").stdout)
    made = {step["urn"].rsplit("::", 1)[1]: step["op"] for step in preview["steps"]}
    assert made["chat"] == made["chat-fetch"] == made["chat-0"] == "create"
    assert not {"nginx", "litellm-0", "prometheus"} & set(made)
    clone.run("bash", "-c", f"{mine} && pulumi stack rm --yes example")
    assert not (clone.path / "examples" / "one-model" / "Pulumi.example.yaml").exists()
