"""How alerts are grouped, held back and sent."""

import yaml

from stack_configs.schema.observability import Alertmanager

WEBHOOK = "webhook"
NOWHERE = "nowhere"


def alertmanager_yml(settings: Alertmanager) -> str:
    """The text of alertmanager.yml: one webhook where the spec names one, else alerts stay in the UI.

    The webhook's URL stands here as it does in the spec: a URL that holds a secret doesn't belong there.
    """
    receiver: dict[str, object] = {"name": NOWHERE}
    if settings.webhook_url:
        receiver = {
            "name": WEBHOOK,
            "webhook_configs": [{"url": settings.webhook_url, "send_resolved": True}],
        }
    config = {
        "route": {
            "receiver": receiver["name"],
            "group_by": ["alertname", "model"],
            "group_wait": "30s",
            "group_interval": "5m",
            "repeat_interval": "4h",
        },
        "inhibit_rules": [
            # A target that is gone explains everything that its last samples still claim.
            {
                "source_matchers": ['alertname=~"TargetDown|EngineDown"'],
                "target_matchers": ['alertname!~"TargetDown|EngineDown"'],
                "equal": ["job", "instance"],
            },
            {
                "source_matchers": ['alertname="GpuOverheating"'],
                "target_matchers": ['alertname=~"GpuHot|GpuThrottledByHeat"'],
                "equal": ["instance", "UUID"],
            },
        ],
        "receivers": [receiver],
    }
    return yaml.safe_dump(config, sort_keys=False)
