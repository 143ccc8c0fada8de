"""A `make up` that is killed with all that it runs, at one moment after another: the next one finishes it."""

import shlex
import subprocess
import time

import pytest

from tests.faults.conftest import Site

OURS = "tools[.]setup|pulumi"
"""On the command lines of set-up, Pulumi, its plugins and the program; on no container's."""


@pytest.mark.campaign
@pytest.mark.parametrize("after_s", [0.5, 1.5, 2.5, 4, 6, 10, 16])
def test_the_next_up_finishes_what_was_cut_off(site: Site, after_s: float) -> None:
    """Model and gateway change, so that containers are stopped, put aside, removed and made all the time."""
    number = int(10 * after_s)
    site.clone.edit(r"rpm: \d+", f"rpm: {1000 + number}")
    site.clone.edit(r"max_num_seqs: \d+", f"max_num_seqs: {10 + number}")
    line = f"cd {shlex.quote(str(site.clone.path))} && exec make up STACK=test"
    up = subprocess.Popen(
        site.machine.argv("sh", "-c", line),
        env=dict(site.clone.env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    time.sleep(after_s)
    site.machine.run("pkill", "-KILL", "-f", OURS, check=False)
    up.wait()
    site.up()
    assert site.sh(". ./activate && pulumi preview -s test --non-interactive --expect-no-changes")
    assert site.ask()
    left = site.machine.docker("ps", "--all", "--format", "{{.Names}}").split()
    assert [name for name in left if "-previous-" in name or "-failed-" in name] == []
