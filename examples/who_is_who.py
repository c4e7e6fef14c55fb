"""Put the faces of a folder of photos into groups, one for each person.

python examples/who_is_who.py photos/
"""

import os
import sys
from pathlib import Path

import numpy as np

from depthface_client import SAME_PERSON_SIMILARITY, Client

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}

people: list[list[tuple[str, np.ndarray]]] = []
with Client(os.environ.get("DEPTHFACE_URL", "127.0.0.1:8000")) as client:
    for photo in sorted(path for path in Path(sys.argv[1]).iterdir() if path.suffix.lower() in SUFFIXES):
        for face in client.faces(photo):
            embedding = face.embedding  # of unit length, so that a product of two is their cosine
            close = [max(float(embedding @ other) for _, other in person) for person in people]
            if close and max(close) >= SAME_PERSON_SIMILARITY:
                people[int(np.argmax(close))].append((photo.name, embedding))
            else:
                people.append([(photo.name, embedding)])

for number, person in enumerate(sorted(people, key=len, reverse=True), 1):
    print(f"person {number}: {', '.join(name for name, _ in person)}")
