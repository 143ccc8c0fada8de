"""Steps run on a test host as the plugin runs them: `sudo bash -s` over SSH, the script on its standard input."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from planning.hosts import steps
from planning.hosts.plan import StepName
from tests.hosts.host import Host
from tests.hosts.repository import Repository

QUIET = "nothing to change"
SNAPSHOT = "find /etc /usr/local -type f -print0 | sort -z | xargs -0 sha256sum"


@dataclass(frozen=True)
class Target:
    """A host with its repository, and what it is to be."""

    host: Host
    repository: Repository
    settings: Mapping[str, Any]
    """Of the host, as in a stack's YAML."""
    versions: Mapping[str, Any]
    """What the version set has in place of the tests' own."""

    def with_(self, versions: Mapping[str, Any] | None = None, **settings: Any) -> "Target":
        return replace(self, settings={**self.settings, **settings}, versions={**self.versions, **(versions or {})})

    def try_(self, step: StepName, what: str = "apply", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a step; `variables` replace its settings."""
        spec = self.repository.spec(self.host, self.settings, **self.versions)
        plan = steps.plan_host(self.host.name, spec)
        found = next(one for one in plan.steps if one.name == step)
        text = steps.text(replace(found, settings={**found.settings, **variables}))
        return self.host.ssh(f"sudo -n bash -s {what}", stdin=text, check=False, timeout_s=found.timeout_s)

    def run(self, *wanted: StepName, what: str = "apply") -> str:
        """Run steps that succeed; what they print."""
        out = ""
        for step in wanted:
            done = self.try_(step, what)
            assert done.returncode == 0, f"{step}: {done.stdout}\n{done.stderr}"
            out += done.stdout
        return out

    def fails(self, step: StepName, **variables: str) -> str:
        """Run a step that must fail; the one line that says why."""
        done = self.try_(step, **variables)
        assert done.returncode == 1, done.stdout
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr.strip()

    def installed(self) -> dict[str, str]:
        """Packages that are installed completely → versions."""
        show = "dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\\n' | sed -n 's/^installed //p'"
        return dict(row.split(" ") for row in self.host.inside(show).splitlines())

    def held(self) -> set[str]:
        return set(self.host.inside("apt-mark showhold").split())

    def pending(self, name: str) -> str:
        return self.host.inside(f"cat /var/lib/inference-stack/pending/{name}", check=False)

    def files(self) -> dict[str, str]:
        """What stands in the folders of settings → a hash of it."""
        return {
            path: digest for digest, path in (row.split("  ", 1) for row in self.host.inside(SNAPSHOT).splitlines())
        }
