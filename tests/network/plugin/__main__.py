"""Serves the double as a Pulumi plugin."""

import sys
from pathlib import Path

from pulumi.provider.experimental.server import main

from tests.network.plugin import VERSIONS
from tests.network.plugin.provider import RecordingProvider

if __name__ == "__main__":
    main(sys.argv[3:], VERSIONS[sys.argv[2]], RecordingProvider(Path(sys.argv[1])))
