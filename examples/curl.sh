#!/usr/bin/env bash
# A depth map with nothing but curl (and Perl, which cuts the PNG out of Triton's answer).
#     examples/curl.sh photo.jpg depth.png
set -euo pipefail
url="${DEPTHFACE_URL:-127.0.0.1:8000}/v2/models/depth_anything_v2_small/infer"  # host:port, or a URL of http or https

# The body is the photo. The answer has all outputs, one behind the other: take the PNG of 16 bits (\x10; \x08 for 8).
curl --silent --show-error --fail-with-body --proto-default http --data-binary "@$1" "$url" \
    -H 'Inference-Header-Content-Length: 0' -H 'Content-Type: application/octet-stream' |
    perl -0777 -ne '/(\x89PNG.{20}\x10.*?IEND\xaeB`\x82)/s ? print $1 : die "There is no PNG in the answer.\n"' > "$2"
