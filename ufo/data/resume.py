"""What Lightning's own counters need so that a run resumes exactly, wherever it was stopped.

Lightning 2.6 restores them as they were saved. That is right for a checkpoint that was saved after
an optimizer step or a validation; the other cases are put right here, before training goes on.
"""

from __future__ import annotations

import math

import lightning as L

from ufo.lightning_private import counts, forget_steps


def unapplied_batches(trainer: L.Trainer | None) -> int:
    """Finished batches whose accumulated gradients no optimizer step has used yet.

    A checkpoint does not contain those gradients, so a resumed run must repeat these batches.
    """
    if trainer is None:
        return 0
    finished = counts(trainer.fit_loop.epoch_loop.batch_progress)[1].processed
    if finished == trainer.num_training_batches:  # the last batch of an epoch always steps
        return 0
    return finished % trainer.accumulate_grad_batches


def rewind(trainer: L.Trainer, unapplied: int, total: int | None) -> None:
    """Bring the counters of a trainer that is about to resume to its last optimizer step.

    Args:
        trainer: its loops are restored, and its training loop has not begun.
        unapplied: finished batches to repeat, see `unapplied_batches`.
        total: batches of the whole run, if known.
    """
    loop = trainer.fit_loop.epoch_loop
    training, validation = loop.batch_progress, loop.val_loop.batch_progress
    now, (of_all_validations, of_this_one) = counts(training)[1], counts(validation)
    if unapplied or now.ready != now.processed:
        # a batch that an exception interrupts stays counted as begun: the next validation would
        # come a batch early, and the run resumed after the next one would start a batch late
        _to_batch_end(trainer, unapplied)
        validation.reset()
    elif of_this_one.ready and not (validation.is_last_batch and of_this_one.ready == of_this_one.processed):
        # a resumed validation would see the missing number of batches only; it is repeated as a
        # whole if exactly one of its batches is begun
        validation.reset()
        of_all_validations.ready = of_all_validations.started = 1
    else:
        count = of_all_validations
        count.ready = count.started = count.completed = count.processed
    if now.processed < (total or math.inf):
        # a run of fewer batches ended its epoch; with `total` batches the epoch goes on
        training.is_last_batch = False
        epochs = counts(trainer.fit_loop.epoch_progress)
        if epochs[1].ready == epochs[1].processed > 0:
            for count in epochs:
                count.processed = count.completed = count.started - 1
            _to_batch_end(trainer, 0)


def _to_batch_end(trainer: L.Trainer, unapplied: int) -> None:
    """The counters as in a checkpoint saved in `on_train_batch_end`, `unapplied` batches ago."""
    loop = trainer.fit_loop.epoch_loop
    progress = loop.batch_progress
    for count in counts(progress):
        count.ready = count.started = count.processed = count.processed - unapplied
        count.completed = count.processed - 1  # Lightning adds one to this and to the next line
    anew = progress.current.ready == 0  # no optimizer step yet
    forget_steps(trainer, all_of_them=anew)
    if anew:
        progress.reset()
        loop.restarting = False
