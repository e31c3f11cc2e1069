# An image with everything that `make setup` installs, and the language-model and sweep extras.
#
#   docker build -t ufo .
#   docker run --rm -v "$PWD:/here" ufo ufo predict /here/scene.jpg --ckpt weights/ufo_vit_tiny_digits
#   mkdir -p data runs
#   docker run --rm --user "$(id -u):$(id -g)" --shm-size 2g \
#       -v "$PWD/data:/ufo/data" -v "$PWD/runs:/ufo/runs" ufo python train.py experiment=digits
#
# * PyTorch's wheels bring CUDA with them, so that this one image serves CPUs, and NVIDIA GPUs with `--gpus all`.
#   Wheels for the CPU alone are smaller: --build-arg TORCH_INDEX=ADDRESS names PyTorch's index of them.
# * `--user`: what is mounted keeps its owner, and the image's own user has the number 1000. Folders that are not
#   there are made by Docker, for root alone: hence `mkdir` first.
# * `--shm-size`: `num_workers` hand batches over in shared memory, of which Docker gives 64 MB.
# * --build-arg REVISION="$(git rev-parse HEAD)" has every run.json say which code ran; .git is not copied.
FROM python:3.12-slim-bookworm

# Whoever `--user` names may write here, where caches, and runs that nobody mounted, go. Such a user has no name,
# and USER is what Python's getpass and all that call it say instead.
RUN useradd --create-home --uid 1000 ufo && mkdir /ufo && chown ufo /ufo && chmod 1777 /ufo /home/ufo
USER ufo
WORKDIR /ufo
ENV HOME=/home/ufo \
    USER=ufo \
    PATH=/home/ufo/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /home/ufo/.venv

# torch first and by itself, so that a change of the code does not download it again
ARG TORCH_INDEX=
RUN pip install torch torchvision ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}

ARG EXTRAS=sweep,dashboard,mllm
COPY --chown=ufo . .
RUN pip install -e ".[$EXTRAS]" && ufo --help > /dev/null

ARG REVISION=
ENV UFO_REVISION=$REVISION

CMD ["ufo", "--help"]
