"""A depth map in three forms: a PNG to look at, a 16-bit PNG to keep, numbers to compute with.

python examples/depth_map.py photo.jpg
"""

import os
import sys
from pathlib import Path

from depthface_client import Client

photo = Path(sys.argv[1])

with Client(os.environ.get("DEPTHFACE_URL", "127.0.0.1:8000")) as client:
    depth = client.depth(photo)
    photo.with_name(f"{photo.stem}_depth16.png").write_bytes(client.depth_png(photo, bits=16))

depth.preview("spectral").save(photo.with_name(f"{photo.stem}_colours.png"))
nearness = depth.normalized()  # (h, w) float32, from 0 for the farthest to 1 for the nearest
print(f"{depth.size[1]}×{depth.size[0]} pixels, grid {depth.array.shape}, weights {depth.weights}")
print(f"{(nearness > 0.8).mean():.0%} of the picture is near")
