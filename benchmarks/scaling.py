"""Training on many devices: measured on 1-4 CPU processes, computed for 8-64 GPUs (results: scaling.md).

    python benchmarks/scaling.py [--processes 1 2 3 4] [--steps 8] [--experiments ufo_vit_b_multi]

Memory follows from the number of weights, which models built without values (meta tensors) tell; what two
processes really hold checks it. Communication and efficiency follow from the assumptions in `Cluster`.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import NETWORKS, make_tokenizer, show
from train_step_vit import make_batch

from ufo.memory.sizes import STRATEGIES, Size, gathered, held, rounded, size_of

CONF = Path(__file__).parents[1] / "conf"
GPUS = (8, 16, 32, 64)
GB = 1e9
# experiment: rows of the vocabulary, images per GPU, tokens per image that the layers see (patches, query and
# answer tokens at the recipe's resolution; tiles of 256 or 576 tokens and the answers' tokens)
EXPERIMENTS = {
    "ufo_vit_b_multi": (30525, 2, 6500),
    "ufo_vit_l_multi": (30525, 2, 6500),
    "ufo_vit_h_multi": (30525, 2, 6500),
    "internvl2_5_8b_multi_448": (92554, 3, 1500),
    "llava1_5_7b_referring": (32069, 4, 700),
    "llava1_5_7b_referring lora=full": (32069, 4, 700),
}


@dataclass(frozen=True)
class Cluster:
    """What is assumed of the machines: A100 nodes of eight, one 200 Gb/s network card per GPU."""

    peak: float = 312e12  # bfloat16 operations per second
    used: float = 0.35  # the part of the peak that a step's computation reaches
    inside: float = 200e9  # bytes per second and GPU between GPUs of a node
    between: float = 20e9  # and between nodes


def meta_size(experiment: str) -> Size:
    """Of an experiment's model, built without memory for its values."""
    import hydra
    from hydra.utils import instantiate

    from ufo.backbones.lora import apply_lora
    from ufo.checkpoints.load import no_values

    name, *more = experiment.split()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("train", [f"experiment={name}", *more])
    with no_values():
        backbone = instantiate(cfg.backbone.network, vocab_size=EXPERIMENTS[experiment][0])
        apply_lora(backbone, instantiate(cfg.lora))
    assert all(p.is_meta for n, p in backbone.named_parameters() if "lora_" not in n)
    return size_of(backbone)


# ---------------------------------------------------------------- on paper


def sent(strategy: str, size: Size, n: int) -> float:
    """Bytes that each device sends per step in ring collectives, bfloat16."""
    p, t, part = size.total, size.trained, (n - 1) / n
    return (
        part
        * {
            "ddp": 2 * 4 * t,  # an all-reduce is a reduce-scatter and an all-gather
            "fsdp": 4 * p + 4 * t,  # float32 weights are gathered once, gradients are scattered
            "deepspeed_stage2": 2 * t + 2 * t,
            "deepspeed_stage3": 2 * p + 2 * t,  # bfloat16 weights are gathered once, gradients are scattered
        }[strategy]
    )


def efficiency(strategy: str, size: Size, n: int, images: int, tokens: int, cluster: Cluster) -> tuple:
    """Images per second on `n` GPUs over `n` times those of one: without overlap, and with a perfect one."""
    # two operations per weight and token forward, again recomputed, twice that backward
    computing = 8 * size.total * tokens * images / (cluster.peak * cluster.used)
    speed = cluster.inside if n <= 8 else cluster.between
    talking = sent(strategy, size, n) / speed
    return computing / (computing + talking), computing / max(computing, talking)


def paper(experiments: list[str]) -> None:
    cluster = Cluster()
    sizes = {name: meta_size(name) for name in experiments}
    show(
        "Weights, millions",
        ["experiment", "all", "trained", "largest layer"],
        [[n, *(f"{v / 1e6:.1f}" for v in (s.total, s.trained, s.layer))] for n, s in sizes.items()],
    )
    columns = ["experiment", "strategy", *(f"{n} GPUs" for n in GPUS)]
    memory, volume, share = [], [], []
    for name, size in sizes.items():
        images, tokens = EXPERIMENTS[name][1:]
        for s in STRATEGIES:
            kept = [held(s, size, n).total / GB for n in GPUS]
            more = [(gathered(s, size, n) + rounded(s, size)) / GB for n in GPUS]
            memory.append([name, s, *(f"{a:.1f} + {b:.1f}" for a, b in zip(kept, more, strict=True))])
            volume.append([name, s, *(f"{sent(s, size, n) / GB:.2f}" for n in GPUS)])
            ranges = [efficiency(s, size, n, images, tokens, cluster) for n in GPUS]
            share.append([name, s, *(f"{100 * a:.0f}-{100 * b:.0f}" for a, b in ranges)])
    show("GB per GPU: kept + more in a step; activations come on top", columns, memory)
    show("GB that a GPU sends per step", columns, volume)
    show("Expected efficiency, %: no overlap - full overlap", columns, share)


# ---------------------------------------------------------------- measured


def worker(rank: int, n: int, port: int, strategy: str, steps: int, results) -> None:
    """A few steps of AdamW on detection with a network of a few hundred thousand weights."""
    from ufo.backbones.ufo_vit import UFOViT
    from ufo.model import UFO
    from ufo.modules.strategies import shard
    from ufo.tasks import make_task

    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=n)
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    backbone = UFOViT(vocab_size=len(tokenizer), image_size=224, **NETWORKS["tiny"])
    model = UFO(backbone, tokenizer, {"detection": make_task("detection", image_size=224, num_bins=448)})
    size = size_of(model)
    if strategy == "fsdp":
        shard(model, dist.init_device_mesh("cpu", (n,)))
        call = model.loss
    else:
        module = Loss(model)
        call = torch.nn.parallel.DistributedDataParallel(
            module, find_unused_parameters=True, gradient_as_bucket_view=True
        )
    optimizer = torch.optim.AdamW(model.parameters())
    batch = make_batch("detection", 224, 8)
    for step in range(steps + 2):
        if step == 2:  # the first two set up buckets and the optimizer's state
            dist.barrier()
            begin, busy = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        call(batch)["loss"].backward()
        fill_gradients(model)
        optimizer.step()
    dist.barrier()
    wall, busy = time.perf_counter() - begin, time.process_time() - busy
    if rank == 0:
        results.put((n * steps / wall, steps / busy, bytes_held(model, optimizer), size))
    dist.barrier()
    dist.destroy_process_group()


def fill_gradients(model) -> None:
    """For weights that this task does not use, too, so that every state exists."""
    for p in model.parameters():
        if p.requires_grad and p.grad is None:
            p.grad = torch.zeros_like(p)


class Loss(torch.nn.Module):
    """Lets DDP see the loss as a forward pass."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return self.model.loss(batch)


def bytes_held(model, optimizer) -> int:
    """Of weights, gradients and moments, as this process stores them between steps."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()
    tensors = [*model.parameters(), *(p.grad for p in model.parameters() if p.requires_grad)]
    tensors += [s[k] for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq")]
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    return sum(t.numel() * t.element_size() for t in local)


def run(n: int, strategy: str, steps: int):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = mp.get_context("fork").SimpleQueue()
    mp.start_processes(worker, (n, port, strategy, steps, results), nprocs=n, start_method="fork")
    return results.get()


def measured(processes: list[int], steps: int) -> None:
    rows, alone = [], None
    for n in processes:
        wall, busy, *_ = run(n, "ddp", steps)
        alone = alone or busy
        rows.append([str(n), f"{wall:.2f}", f"{busy:.2f}", f"{100 * busy / alone:.0f} %"])
    columns = ["processes", "images/s", "images per CPU second, each", "of one process"]
    show(f"DDP over gloo, one thread each, {os.cpu_count()} CPUs", columns, rows)
    rows = []
    for strategy in ("ddp", "fsdp"):
        *_, found, size = run(2, strategy, 1)
        expected = held(strategy, size, 2, half=False).total
        rows.append([strategy, f"{found}", f"{expected:.0f}", f"{100 * found / expected - 100:+.2f} %"])
    show("Bytes that one of two processes keeps", ["strategy", "found", "computed", "difference"], rows)


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--processes", type=int, nargs="*", default=[1, 2, 3, 4])
    made.add_argument("--steps", type=int, default=8, help="timed steps of one image per process")
    made.add_argument("--experiments", nargs="*", default=list(EXPERIMENTS), choices=list(EXPERIMENTS))
    arguments = made.parse_args()
    measured(arguments.processes, arguments.steps)
    paper(arguments.experiments)


if __name__ == "__main__":
    main()
