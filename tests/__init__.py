"""Tests. gRPC must not start its threads again in children that run another program at once."""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
