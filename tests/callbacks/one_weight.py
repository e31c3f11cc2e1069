"""A module that trains one number, for callbacks that only need something to be trained."""

from __future__ import annotations

import lightning as L
import torch


class OneWeight(L.LightningModule):
    """Weight `[1]`, with SGD."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        return self.weight.sum() ** 2

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
