"""Serves the double as a Pulumi plugin."""

import sys

from pulumi.provider.experimental.server import main

from tests.hosts.plugin import VERSION
from tests.hosts.plugin.provider import CommandProvider

if __name__ == "__main__":
    main(sys.argv[1:], VERSION, CommandProvider(sys.argv[1]))
