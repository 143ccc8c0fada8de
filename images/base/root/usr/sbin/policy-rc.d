#!/bin/sh
# No service is ever started by its package: a container starts its one program.
exit 101
