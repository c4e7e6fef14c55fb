"""The same client over gRPC: pip install 'depthface[grpc]'.

DEPTHFACE_URL=grpc://127.0.0.1:8001 python examples/over_grpc.py photo.jpg
"""

import os
import sys

from depthface_client import Client

with Client(os.environ.get("DEPTHFACE_URL", "grpc://127.0.0.1:8001")) as client:
    depth = client.depth(sys.argv[1])
    print(f"grid {depth.array.shape}, from {depth.array.min():.3f} (far) to {depth.array.max():.3f} (near)")
