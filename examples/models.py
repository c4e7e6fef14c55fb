"""What a server serves; take a model out of its memory, and bring it back.

python examples/models.py depth_anything_v2_small

Loading and unloading need the server's admin key: DEPTHFACE_ADMIN_KEY, unless the server runs on this machine as you.
"""

import os
import sys

from depthface_client import Client

with Client(os.environ.get("DEPTHFACE_URL", "127.0.0.1:8000")) as client:
    for model in client.models():
        print(f"{model.name}: {model.task}, {model.weights if model.ready else 'not loaded'}")
    if len(sys.argv) > 1:
        client.unload(sys.argv[1])
        print(f"{sys.argv[1]} unloaded")
        client.load(sys.argv[1])
        print(f"{sys.argv[1]} loaded: {client.weights(sys.argv[1])}")
