"""What a host with several ways to the internet is told of them: see planning/hosts/scripts/uplinks_watch.sh."""

from stack_configs.schema.hosts import Host


def settings(host: Host) -> dict[str, str] | None:
    """Of the step `uplinks`; None where the host has one way only, which it looks after by itself."""
    if not host.uplinks:
        return None
    words = (f"{one.interface}={one.gateway}={','.join(one.probes)}" for one in host.uplinks)
    return {"UPLINKS": " ".join(words)}


def summary(host: Host) -> str:
    """What a preview shows: `eth0, then eth1; by 2 probes each`."""
    if not host.uplinks:
        return ""
    counts = [len(one.probes) for one in host.uplinks]
    probes = f"{counts[0]} probe{'s' * (counts[0] > 1)} each" if len(set(counts)) == 1 else f"{sum(counts)} probes"
    return f"{', then '.join(one.interface for one in host.uplinks)}; by {probes}"
