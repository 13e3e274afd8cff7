# The images of lstm-serve. `onnx`, the last and so the default, serves ONNX on the CPU and holds no torch; `torch` serves
# either backend on the CPU, `gpu` either on CUDA, `trainer` trains.
#
#   docker build -t lstm-serve:onnx .
#   docker build --target torch -t lstm-serve:torch .
#
# Where PyTorch's CPU index cannot be reached, put its wheel into a folder: --build-context wheels=FOLDER.
# Where no index can be reached, put every wheel there (and setuptools, which builds this project), and add
# --build-arg PIP_NO_INDEX=1.

ARG PYTHON=python:3.11-slim-bookworm

# Empty, unless --build-context wheels=FOLDER takes its place.
FROM scratch AS wheels


# --- Building: none of it reaches an image but the folders copied from it ---------------------------------------------

FROM ${PYTHON} AS builder
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
ENV PIP_FIND_LINKS=/wheels PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# No pip inside: the base image's own installs into it from outside.
RUN python -m venv --without-pip /opt/venv
WORKDIR /build
COPY pyproject.toml constraints.txt docker/requirements.py ./

# Lists what an environment holds, in CycloneDX: each image carries its own list, /opt/venv/sbom.cdx.json.
FROM ${PYTHON} AS lister
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
ENV PIP_FIND_LINKS=/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN --mount=type=cache,target=/root/.cache/pip --mount=from=wheels,target=/wheels \
    python -m venv /opt/lister && /opt/lister/bin/pip install cyclonedx-bom==7.5.0

# This project, apart from what it needs: a change of code installs nothing anew.
FROM builder AS code
COPY README.md LICENSE ./
COPY model model
COPY service service
RUN --mount=type=cache,target=/root/.cache/pip --mount=from=wheels,target=/wheels \
    pip install --no-deps --target /app . \
 && python -m compileall -q --invalidation-mode unchecked-hash /app

FROM builder AS onnx-packages
RUN --mount=type=cache,target=/root/.cache/pip --mount=from=wheels,target=/wheels \
    python requirements.py > requirements.txt \
 && pip --python /opt/venv/bin/python install -r requirements.txt -c constraints.txt
RUN --mount=from=lister,source=/opt/lister,target=/opt/lister \
    /opt/lister/bin/cyclonedx-py environment --output-file /opt/venv/sbom.cdx.json /opt/venv/bin/python
RUN find /opt/venv/lib -type d -name tests -prune -exec rm -r {} + \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib

# `+cpu` is the variant without CUDA; without it pip would fall back to the gigabytes of the other one.
FROM builder AS torch-packages
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip --mount=from=wheels,target=/wheels \
    sed -i 's/^torch==[^+]*$/&+cpu/' constraints.txt \
 && python requirements.py torch > requirements.txt \
 && pip --python /opt/venv/bin/python install -r requirements.txt -c constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"}
RUN --mount=from=lister,source=/opt/lister,target=/opt/lister \
    /opt/lister/bin/cyclonedx-py environment --output-file /opt/venv/sbom.cdx.json /opt/venv/bin/python
# Some of torch's own files are written for a newer Python and do not compile; nothing imports them.
RUN python -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/venv/lib || true

FROM torch-packages AS trainer-packages
RUN --mount=type=cache,target=/root/.cache/pip --mount=from=wheels,target=/wheels \
    python requirements.py train > requirements.txt \
 && pip --python /opt/venv/bin/python install -r requirements.txt -c constraints.txt
RUN --mount=from=lister,source=/opt/lister,target=/opt/lister \
    /opt/lister/bin/cyclonedx-py environment --output-file /opt/venv/sbom.cdx.json /opt/venv/bin/python
RUN python -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/venv/lib || true

# onnxruntime-gpu in the place of onnxruntime; it and PyPI's torch are built for CUDA 13 and cuDNN 9, and share torch's.
# `===` passes over a wheel of torch+cpu in the local folder.
FROM builder AS gpu-packages
RUN --mount=type=cache,target=/root/.cache/pip --mount=from=wheels,target=/wheels \
    sed -i 's/^torch==/torch===/' constraints.txt \
 && python requirements.py torch gpu | sed '/^onnxruntime[^-]/d; s/^onnxruntime-gpu/&[cuda,cudnn]/' > requirements.txt \
 && pip --python /opt/venv/bin/python install -r requirements.txt -c constraints.txt
RUN --mount=from=lister,source=/opt/lister,target=/opt/lister \
    /opt/lister/bin/cyclonedx-py environment --output-file /opt/venv/sbom.cdx.json /opt/venv/bin/python
RUN python -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/venv/lib || true


# --- Running ----------------------------------------------------------------------------------------------------------

FROM ${PYTHON} AS runtime
# The base image ships its standard library without bytecode, and a read-only root could never keep any.
# The mount point belongs to the user, and so does every named volume first mounted there.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x 'site-packages|/(test|tests|idlelib|lib2to3|tkinter|turtledemo|ensurepip)/' /usr/local/lib/python3.11 \
 && echo 'lstm:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'lstm:x:10001:' >> /etc/group \
 && install -d -o 10001 -g 10001 /bundles
# ONNX Runtime 1.29 and later report to their maker unless told not to.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    ORT_DISABLE_TELEMETRY=1 \
    LSTM_REPOSITORY=/bundles \
    LSTM_HOST=0.0.0.0 \
    LSTM_PORT=8000
WORKDIR /app
EXPOSE 8000
STOPSIGNAL SIGTERM
USER 10001:10001
ENTRYPOINT ["python", "-m", "service"]
# Ready, not live: whoever waits for this container waits for a model, and one that drains should get nothing new.
# http.client, not urllib: a proxy that Docker passes into the container is none of its business.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["python", "-I", "-c", \
    "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['LSTM_PORT']), timeout=2); c.request('GET', '/health/ready'); sys.exit(c.getresponse().status != 200)"]
LABEL org.opencontainers.image.title="lstm-serve" \
      org.opencontainers.image.description="Serves LSTM sequence classifiers over HTTP." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"

FROM runtime AS torch
COPY --from=torch-packages /opt/venv /opt/venv
COPY --from=code /app /app

FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LD_LIBRARY_PATH=/opt/venv/lib/python3.11/site-packages/nvidia/cu13/lib:/opt/venv/lib/python3.11/site-packages/nvidia/cudnn/lib
COPY --from=gpu-packages /opt/venv /opt/venv
COPY --from=code /app /app

FROM runtime AS trainer
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "model"]
CMD ["--help"]
COPY --from=trainer-packages /opt/venv /opt/venv
COPY --chmod=755 docker/fill-if-empty.sh /usr/local/bin/fill-if-empty
COPY --from=code /app /app

FROM runtime AS onnx
COPY --from=onnx-packages /opt/venv /opt/venv
COPY --from=code /app /app
