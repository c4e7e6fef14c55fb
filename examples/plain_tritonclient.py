"""Without depthface: NVIDIA's own client is enough. pip install 'tritonclient[http]'

python examples/plain_tritonclient.py photo.jpg depth.png
"""

import os
import sys
from pathlib import Path

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

photo, out = map(Path, sys.argv[1:])

scheme, _, address = os.environ.get("DEPTHFACE_URL", "127.0.0.1:8000").rpartition("://")  # http, https, or none
client = InferenceServerClient(address, ssl=scheme == "https")
image = InferInput("image", [1, 1], "BYTES")  # a batch of one
image.set_data_from_numpy(np.array([[photo.read_bytes()]], np.object_))
answer = client.infer("depth_anything_v2_small", [image], outputs=[InferRequestedOutput("png16")])
out.write_bytes(answer.as_numpy("png16")[0, 0])
print(f"{photo} → {out}")
