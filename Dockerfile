# An image with everything that `make setup` installs, and the language-model and sweep extras.
#
#   docker build -t ufo .                              CPU
#   docker build -t ufo:cuda --build-arg DEVICE=cuda . NVIDIA GPUs; run it with --gpus all
#   docker run --rm -v "$PWD/data:/ufo/data" -v "$PWD/runs:/ufo/runs" ufo python train.py experiment=digits
#
# PyTorch's wheels bring CUDA with them, so one base image serves both. Wheels for the CPU alone are smaller, where
# --build-arg CPU_WHEELS=ADDRESS names PyTorch's index of them.
FROM python:3.12-slim-bookworm

ARG DEVICE=cpu
ARG EXTRAS=sweep,dashboard,mllm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 ufo && mkdir -p /ufo && chown ufo /ufo
USER ufo
WORKDIR /ufo
ENV PATH=/home/ufo/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /home/ufo/.venv

# torch first and by itself, so that a change of the code does not download it again
ARG CPU_WHEELS=
RUN case "$DEVICE" in \
        cpu)  pip install torch torchvision ${CPU_WHEELS:+--index-url "$CPU_WHEELS"} ;; \
        cuda) pip install torch torchvision ;; \
        *)    echo "DEVICE is cpu or cuda, not $DEVICE" >&2; exit 1 ;; \
    esac

COPY --chown=ufo . .
RUN pip install -e ".[$EXTRAS]" && ufo --help > /dev/null

CMD ["ufo", "--help"]
