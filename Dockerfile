# syntax=docker/dockerfile:1
# NVIDIA's Triton with depthface in it: `serve`, the default target, and `export`, which makes what it serves. And `gateway`,
# a Python without Triton.
#     docker build --build-arg TRITON_TAG=26.11 --target serve .
ARG TRITON_TAG=26.11

# The environment is made in the image that it will run in, for the Python that Triton's stub is linked with.
FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG}-py3 AS environment
# A mirror of the package index, or a second one (torch without CUDA, say); none by default.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
COPY export ./export
COPY server ./server
COPY client ./client
COPY render ./render
COPY gateway ./gateway
RUN python3 -m venv --without-pip /opt/depthface \
    && python3 -m pip --python /opt/depthface/bin/python3 install --no-cache-dir --constraint constraints.txt '.[steps]'


# Everything that an export needs. insightface brings opencv-python, whose cv2 needs a desktop's libraries: the headless
# one takes its place. TensorRT's Python bindings are those of the libraries in the image, and come without others.
FROM environment AS export-environment
ARG TENSORRT_VERSION
COPY deploy/tensorrt_requirements.py ./deploy/
RUN python3 -m pip --python /opt/depthface/bin/python3 install --no-cache-dir --constraint constraints.txt '.[export]' \
    && python3 -m pip --python /opt/depthface/bin/python3 install --no-cache-dir --constraint constraints.txt \
        --no-deps --force-reinstall opencv-python-headless
RUN python3 deploy/tensorrt_requirements.py > tensorrt.txt \
    && python3 -m pip --python /opt/depthface/bin/python3 install --no-cache-dir --no-deps --requirement tensorrt.txt


# The gateway asks a Triton elsewhere: no NVIDIA in its image.
FROM python:3.12-slim-bookworm AS gateway-environment
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
COPY export ./export
COPY server ./server
COPY client ./client
COPY render ./render
COPY gateway ./gateway
RUN python3 -m venv --without-pip /opt/depthface \
    && python3 -m pip --python /opt/depthface/bin/python3 install --no-cache-dir --constraint constraints.txt '.[gateway]'


FROM python:3.12-slim-bookworm AS gateway
COPY --from=gateway-environment /opt/depthface /opt/depthface
ENV PATH=/opt/depthface/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    DEPTHFACE_GATEWAY_DATA=/data
RUN mkdir /data && chown 1000:1000 /data
USER 1000:1000
VOLUME ["/data"]
EXPOSE 3003 5000 8000 8001 8080 8090
ENTRYPOINT ["depthface", "gateway"]
CMD ["--help"]


# What both targets share: the user that NVIDIA's image has for it, the model repository's place, and NVIDIA's entry
# point, which checks the driver and then becomes the command.
FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG}-py3 AS base
# NVIDIA's libraries multiply fp32 in TF32 unless they are told not to, and no fp32 of a card holds that.
ENV PATH=/opt/depthface/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    NVIDIA_TF32_OVERRIDE=0
RUN mkdir --mode=1777 /cache
WORKDIR /models
USER 1000:1000


FROM base AS export
COPY --from=export-environment /opt/depthface /opt/depthface
# Weights, TensorRT's timing cache and whatever else can be had again. It may run as a user whom the image does not know.
ENV XDG_CACHE_HOME=/cache \
    HOME=/cache \
    USER=depthface
VOLUME ["/cache"]
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "depthface", "export", "--repository", "/models"]
CMD ["--help"]


FROM base AS serve
COPY --from=environment /opt/depthface /opt/depthface
ENV XDG_CACHE_HOME=/tmp \
    HOME=/tmp
EXPOSE 8000 8001 8002
# A real inference by every model: Triton's own endpoints stay ready when a step has died.
HEALTHCHECK --interval=30s --timeout=60s --start-period=300s --start-interval=5s --retries=3 \
    CMD ["depthface", "health"]
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "depthface"]
CMD ["serve", "--repository", "/models", "--host", "0.0.0.0", "--log-format", "json"]
