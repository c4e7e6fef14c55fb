"""Are the largest faces of two photos the same person's?

python examples/compare.py a.jpg b.jpg
"""

import os
import sys

from depthface_client import Client, NoFaceFound

with Client(os.environ.get("DEPTHFACE_URL", "127.0.0.1:8000")) as client:
    try:
        result = client.compare(sys.argv[1], sys.argv[2])
    except NoFaceFound as error:
        raise SystemExit(str(error)) from error

print(f"{'the same person' if result.same else 'different people'}: cosine {result.similarity:.3f}")
