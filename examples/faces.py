"""Find the faces in a photo, print what is known of each, and draw them.

python examples/faces.py photo.jpg faces.png
"""

import os
import sys

from depthface_client import Client, draw

photo, out = sys.argv[1:]

with Client(os.environ.get("DEPTHFACE_URL", "127.0.0.1:8000")) as client:
    found = client.faces(photo, min_score=0.5)

for face in found:
    x1, y1, x2, y2 = face.box
    print(f"{face.score:.2f} at {x1:.0f},{y1:.0f}–{x2:.0f},{y2:.0f}: {face.gender or '?'}, {face.age or '?'} years")
draw.faces(photo, found).save(out)
print(f"{len(found)} faces → {out}")
