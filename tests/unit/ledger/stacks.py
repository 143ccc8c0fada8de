"""Stacks of a few models on hosts with cards of the table, to be bent by a test."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from planning.serving.ledger.cards import TABLE
from stack_configs.schema.facts import Facts
from stack_configs.schema.model_lock import ModelLock
from stack_configs.schema.stack import StackFile, StackSpec
from tests.unit.ledger import shapes

R4090, R5090, PRO6000 = (
    "NVIDIA GeForce RTX 4090",
    "NVIDIA GeForce RTX 5090",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition",
)
T4, H100 = "Tesla T4", "NVIDIA H100 80GB HBM3"
REVISION = "0" * 40


def uuid(host: str, index: int) -> str:
    return f"GPU-{ord(host[-1]):08x}-0000-0000-0000-{index:012x}"


def stack(
    models: Mapping[str, Mapping[str, Any]],
    hosts: Mapping[str, tuple[str, ...]],
    *,
    fallbacks: Mapping[str, list[str]] | None = None,
    unlocked: tuple[str, ...] = (),
    unknown: tuple[str, ...] = (),
    **changes: Any,
) -> StackSpec:
    """Models name their `shape` of shapes.yaml and their GPUs as `on: [(host, indexes)]`; else `models:` of a stack.

    `hosts`: name → its cards. `unlocked` models have no lock, `unknown` hosts no facts.
    """
    file = {
        "versions": "2026.11",
        "hosts": {
            name: {
                "connection": {"kind": "ssh", "address": name, "user": "ops", "host_key": "ssh-ed25519 AAAA"},
                "gpus": tuple(uuid(name, index) for index in range(len(cards))),
            }
            for name, cards in hosts.items()
        },
        "models": {name: _model(dict(model)) for name, model in models.items()},
        "gateway": {"keys": {"me": {}}, "fallbacks": {name: tuple(to) for name, to in (fallbacks or {}).items()}},
    }
    return StackSpec(
        **{
            "stack": "prod",
            "file": StackFile.model_validate(file),
            "images": {},
            "key_hashes": {},
            "facts": {name: _facts(name, cards) for name, cards in hosts.items() if name not in unknown},
            "locks": {name: _lock(str(model["shape"])) for name, model in models.items() if name not in unlocked},
            **changes,
        }
    )


def one(shape: str, *cards: str, **changes: Any) -> StackSpec:
    """One model `chat` on all of these cards of one host."""
    model = {"shape": shape, "on": [("studio-1", range(len(cards)))], **changes}
    return stack({"chat": model}, {"studio-1": cards})


def _model(given: dict[str, Any]) -> dict[str, Any]:
    shape, places = given.pop("shape"), given.pop("on")
    return {
        "source": {"repo": f"someone/{shape}", "revision": REVISION},
        "replicas": tuple(
            {"host": host, "gpus": tuple(uuid(host, index) for index in indexes)} for host, indexes in places
        ),
        **given,
    }


def _lock(shape: str) -> ModelLock:
    return ModelLock(repo=f"someone/{shape}", revision=REVISION, source="a test", config=shapes.config(shape))


def _facts(host: str, cards: tuple[str, ...]) -> Facts:
    return Facts.model_validate(
        {
            "host": host,
            "read_at": datetime(2026, 11, 20, 8, 0, tzinfo=UTC),
            "os": {"id": "ubuntu", "version": "24.04", "codename": "noble", "name": "Ubuntu 24.04.3 LTS"},
            "arch": "x86_64",
            "kernel": {"running": "6.8.0-60-generic", "boots": None, "headers": ()},
            "secure_boot": "off",
            "boot_id": "0f0e0d0c-0000-4000-8000-000000000000",
            "virtual": None,
            "gpus": tuple(
                {
                    "pci_address": f"0000:{index:02x}:00.0",
                    "pci_id": "10de:2684",
                    "uuid": uuid(host, index),
                    "name": card,
                    "memory_mib": TABLE[card].memory_mib if card in TABLE else 98304,
                    "compute_capability": str(TABLE[card].capability if card in TABLE else 12.1),
                }
                for index, card in enumerate(cards)
            ),
            "driver": {"loaded": "580.105.08", "modules": "open", "dkms": {}},
            "packages": {},
            "engine": None,
            "cdi_devices": (),
            "disks": {},
            "steps": {},
        }
    )
