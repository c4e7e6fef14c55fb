"""A numpy array as the photo: what a camera or another library gives, never written to a file.

python examples/arrays.py
"""

import os

import numpy as np

from depthface_client import Client

# (H, W, 3) uint8 RGB. From OpenCV, which has BGR, turn the colours first: frame[..., ::-1].
height, width = 360, 640
frame = np.zeros((height, width, 3), np.uint8)
frame[..., 0] = np.linspace(0, 255, width)
frame[..., 2] = np.linspace(0, 255, height)[:, None]

with Client(os.environ.get("DEPTHFACE_URL", "127.0.0.1:8000")) as client:
    depth = client.depth(frame)

row, column = np.unravel_index(depth.array.argmax(), depth.array.shape)
print(f"grid {depth.array.shape}, the nearest at row {row}, column {column}")
