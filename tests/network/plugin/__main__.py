"""Serves the double as a Pulumi plugin."""

import sys
from pathlib import Path

from pulumi.provider.experimental.server import main

from tests.network.plugin import VERSION
from tests.network.plugin.provider import CloudflareProvider

if __name__ == "__main__":
    main(sys.argv[2:], VERSION, CloudflareProvider(Path(sys.argv[1])))
