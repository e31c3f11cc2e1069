"""The Lightning data module: a mixture of sources, endless and resumable in training.

Its checkpointed position counts the batches whose gradients are in the weights, not those that
workers have prefetched, so a resumed run continues with exactly the next batch.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset

from ufo.data.collate import collate
from ufo.data.mixer import Entry, Key, MixtureSampler, effective_shares
from ufo.data.processes import outlive_signals
from ufo.data.resume import rewind, unapplied_batches
from ufo.data.sampling import weights_by_size
from ufo.data.source import Source
from ufo.lightning_private import HasWorkers, counts, settings
from ufo.types import Batch, Sample

log = logging.getLogger(__name__)


class UFODataModule(L.LightningDataModule):
    """Training batches from a mixture of sources, one evaluation loader per source.

    Training is one long epoch: use `Trainer(max_steps=N, max_epochs=1, val_check_interval=V,
    check_val_every_n_epoch=None)`. (With `max_epochs=-1` Lightning 2.6 shows `max_steps` minus the
    optimizer steps already done as the progress bar's number of batches; all else is the same.)

    Args:
        sources: the mixture; of a mapping only the values count, and `None` leaves a source out.
        seed: of the mixture and of all augmentation; independent of every global seed.
        num_workers: processes per loader; 0 loads in the main process. Batches do not depend on it.
        max_steps: training batches per rank of the whole run (micro batches, if gradients are
            accumulated), for the progress bar; `None`: what the trainer's `max_steps` needs.
        temperature: sources of one task are drawn by size ** (1 / temperature); their weights are factors
            and their sum the task's share. `None`: by weight alone.
        prefetch_factor: batches that each worker prepares in advance.
        prepare: called once per node before the data sets are read, for example to generate them.
        multiprocessing_context: "fork", "spawn" or "forkserver"; `None`: the platform's default.

    Raises:
        ValueError: no source, two of one name, or no positive weight.
    """

    def __init__(
        self,
        sources: Mapping[str, Source | None] | Sequence[Source],
        seed: int = 0,
        num_workers: int = 0,
        max_steps: int | None = None,
        prefetch_factor: int = 2,
        multiprocessing_context: str | None = None,
        prepare: Sequence[Callable[[], object]] = (),
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        values = sources.values() if isinstance(sources, Mapping) else sources
        self.sources = [s for s in values if s is not None]
        effective_shares(self.sources)
        self.seed, self.max_steps, self.temperature = seed, max_steps, temperature
        self._prepare = list(prepare)
        self._workers: dict[str, Any] = {"num_workers": num_workers}
        if num_workers:
            self._workers["prefetch_factor"] = prefetch_factor
            self._workers["multiprocessing_context"] = multiprocessing_context
        self._sampler: MixtureSampler | None = None
        self._loaded: dict[str, Any] | None = None
        # position = _start + batches finished since the count of the trainer _counts was _base
        self._start, self._base = 0, 0
        self._counts: L.Trainer | None = None

    def __str__(self) -> str:
        """The sources; Lightning's own text asks for loaders, which would read the data."""
        return f"{type(self).__name__}({', '.join(source.name for source in self.sources)})"

    __repr__ = __str__

    @property
    def position(self) -> int:
        """Training batches finished so far, on each rank; another trainer begins anew."""
        return self._start + self._finished() - self._base if self.trainer is self._counts else 0

    @property
    def evaluated(self) -> list[Source]:
        """The sources with evaluation data, in the order of the evaluation loaders."""
        return [s for s in self.sources if s.has("val")]

    def prepare_data(self) -> None:
        """Make the data that the mixture makes itself; called on one process per node."""
        for prepare in self._prepare:
            prepare()

    def setup(self, stage: str) -> None:
        """Build the data sets that `stage` needs, so that what is wrong with them shows now."""
        if stage == "fit":
            for source in self._trained():
                source.data("train")
        for source in self.evaluated:
            source.data("val")

    def train_dataloader(self) -> MixtureLoader:
        """This rank's batches, from the next one that the trainer has not finished.

        Raises ValueError where nothing would ever end the training.
        """
        self._check_end()
        rank, world_size = 0, 1
        if self.trainer is not None and (kwargs := self.trainer.distributed_sampler_kwargs):
            rank, world_size = kwargs["rank"], kwargs["num_replicas"]
        sources = self._trained()
        entries = self.entries()
        sampler = MixtureSampler(entries, self.seed, rank, world_size, self._total())
        # Lightning's `overfit_batches` means the same few batches in every epoch
        overfit = self.trainer is not None and settings(self.trainer).overfit_batches > 0
        state = None if overfit else self._loaded
        if state is not None and self.trainer is not None:
            rewind(self.trainer, state["unapplied"], sampler.max_steps)
        elif not overfit and self._sampler is not None and self.position:
            state = self._sampler.state_dict(self.position)  # a second `fit` of the same trainer
        if state is not None:
            sampler.load_state_dict(state)
        self._sampler, self._loaded = sampler, None
        self._start, self._base, self._counts = sampler.step, self._finished(), self.trainer
        if rank == 0:
            for row in sampler.describe():
                log.info("%s: %.4f of the batches, %d samples, %d per batch", *row)
        loader = DataLoader(
            TrainingData(sources),
            batch_sampler=sampler,
            collate_fn=_as_it_is,
            persistent_workers=bool(self._workers["num_workers"]),
            **self._options(),
        )
        return MixtureLoader(loader, sampler, lambda: 0 if overfit else self.position)

    def entries(self) -> list[Entry]:
        """What the mixture draws from: the sources with a weight, as the sampler knows them."""
        sources = self._trained()
        weights = [s.weight for s in sources]
        if self.temperature is not None:
            sizes = [len(s.data("train")) for s in sources]
            weights = weights_by_size(weights, sizes, [s.task for s in sources], self.temperature)
        return [Entry(s.name, w, s.batch_size, s.groups()) for s, w in zip(sources, weights, strict=True)]

    def val_dataloader(self) -> list[DataLoader]:
        """One loader per source with evaluation data; Lightning shards them over the ranks."""
        return [
            DataLoader(
                EvaluationData(source),
                batch_size=source.val_batch_size or source.batch_size,
                collate_fn=functools.partial(
                    collate,
                    task=source.task,
                    source=source.name,
                    classes=source.classes("val"),
                ),
                **self._options(),
            )
            for source in self.evaluated
        ]

    def teardown(self, stage: str) -> None:
        """Log how many samples could not be used."""
        for source in self.sources:
            for split in ("train", "val"):
                unusable, rejected = source.problems(split)
                if unusable or rejected:
                    log.warning(
                        "%s: %d %s samples were unusable, %d were rejected by the transform",
                        *(source.name, unusable, split, rejected),
                    )

    def state_dict(self) -> dict[str, Any]:
        """The position in the mixture after the batches of the finished optimizer steps."""
        if self._sampler is None:
            return self._loaded or {}
        unapplied = unapplied_batches(self.trainer)
        return {**self._sampler.state_dict(self.position - unapplied), "unapplied": unapplied}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the batches that `state_dict` counts."""
        # an evaluation restores it too; a later `fit` on its own must not start there
        evaluating = self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING
        self._loaded = None if evaluating else state_dict or None

    def _trained(self) -> list[Source]:
        """The sources that training draws from: those of weight zero are never built."""
        return [s for s in self.sources if s.weight > 0]

    def _finished(self) -> int:
        """Training batches that the trainer has finished, by its own count."""
        if self.trainer is None:
            return 0
        # `processed` grows after the optimizer's step and before `on_train_batch_end`, where
        # checkpoints are saved; `ready` would also count a batch that an exception interrupted
        return counts(self.trainer.fit_loop.epoch_loop.batch_progress)[0].processed

    def _total(self) -> int | None:
        if self.max_steps is not None or self.trainer is None or self.trainer.max_steps < 1:
            return self.max_steps
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches

    def _check_end(self) -> None:
        """The mixture is one epoch without an end, so a number of epochs ends nothing."""
        if self.trainer is None or self._total() is not None or self.trainer.max_epochs == -1:
            return
        if isinstance(settings(self.trainer).limit_train_batches, int):
            return
        said = "give the Trainer max_steps=, or limit_train_batches= as the number of batches of an epoch"
        if self.trainer.max_epochs != 1:
            raise ValueError(
                f"{self.trainer.max_epochs} epochs never end, as a mixture of sources has no end; {said}"
            )
        log.warning("the training has no end; if that is not meant, %s", said)

    def _options(self) -> dict[str, Any]:
        # an own generator: a loader without one draws its workers' seed from torch's global state
        generator = torch.Generator().manual_seed(self.seed)
        init = {"worker_init_fn": outlive_signals} if self._workers["num_workers"] else {}
        return {**self._workers, **init, "generator": generator, "pin_memory": torch.cuda.is_available()}


class TrainingData(Dataset):
    """Training data of all sources; a list of keys of one batch gives the `Batch`."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources

    def __getitem__(self, key: Key) -> Sample:
        return self.sources[key.source].sample(key.index, key.seed)

    def __getitems__(self, keys: list[Key]) -> Batch:
        source = self.sources[keys[0].source]
        samples = [self[key] for key in keys]
        data, seed = source.data("train"), keys[0].batch_seed
        wordings = (data.classes, *getattr(data, "wordings", ()))
        batch = collate(samples, source.task, source.name, wordings[seed % len(wordings)], seed)
        batch.ids = [key.index for key in keys]
        return batch


class EvaluationData(Dataset):
    """Evaluation data of one source, in its own order."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source.data("val"))

    def __getitem__(self, index: int) -> Sample:
        return self.source.evaluation_sample(index)


class MixtureLoader(HasWorkers):
    """The training loader: every iteration starts at the trainer's position.

    Not a `DataLoader` itself, because Lightning would replace that one's sampler under DDP.
    """

    def __init__(self, loader: DataLoader, mixture: MixtureSampler, position: Callable[[], int]) -> None:
        self.loader, self.mixture, self._position = loader, mixture, position

    def __iter__(self) -> Iterator[Batch]:
        self.mixture.step = self._position()
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.mixture)

    # Lightning warns about loaders that cannot resume unless they have these two; the position is
    # saved once, by the data module
    def state_dict(self) -> dict[str, Any]:
        """Nothing: see `UFODataModule.state_dict`."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: see `UFODataModule.load_state_dict`."""


def _as_it_is(batch: Any) -> Any:
    """The data set makes whole batches."""
    return batch
