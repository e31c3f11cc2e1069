"""Qwen2.5-VL as transformers has it: the whole image at its own shape instead of tiles, places in 2-D.

Not in the paper; shows what another family needs. One token stands for `merge` x `merge` patches; a window of
queries is 16 x 16 tokens, as many as an InternVL tile has.
Shapes: `B` images, `H W` tokens, `p` pixels of a patch's side, `m` merge, `N` prefix tokens.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen2_5_VLForConditionalGeneration

from ufo.backbones.mllm import MLLM
from ufo.backbones.prefix import ImageTokens
from ufo.backbones.tiles import Layout, resize

WINDOW = 16  # tokens of a window's side


class Qwen2_5_VL(MLLM):
    """A ViT with windows, an MLP that merges patches and a Qwen2 decoder.

    `max_tiles` bounds the image: it has at most so many windows and so many times 256 tokens.
    """

    model_class: ClassVar[type[PreTrainedModel]] = Qwen2_5_VLForConditionalGeneration
    wording = "internvl"  # questions in whole sentences, boxes in tags
    learned_prompt_end = "\n"
    default_system = "You are a helpful assistant."
    patch_token = "<|image_pad|>"
    image_text = "<|vision_start|><|image_pad|><|vision_end|>"
    tokens = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<box>", "</box>")
    pixel_mean_std = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

    def chat(self, question: str) -> str:
        system = f"<|im_start|>system\n{self.system}<|im_end|>\n" if self.system else ""
        return system + self._user(self.with_image(question))

    def follow_up(self, question: str) -> str:
        return f"\n{self._user(question)}"

    def _user(self, question: str) -> str:
        return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"

    # ---------------------------------------------------------------- images

    @property
    def tile(self) -> int:
        """Pixels of a token's side."""
        vision = self.net.config.vision_config
        return vision.patch_size * vision.spatial_merge_size

    def layout(self, height: int, width: int) -> Layout:
        most = WINDOW**2 * self.max_tiles
        scale = min((most * self.tile**2 / (height * width)) ** 0.5, 1.0) / self.tile
        rows, cols = (min(max(round(side * scale), 1), most) for side in (height, width))
        if rows * cols > most:  # one of them was less than a token
            rows, cols = min(rows, max(most // cols, 1)), min(cols, max(most // rows, 1))
        return Layout(1, 1, rows, cols)

    def grid_windows(self, height: int, width: int) -> tuple[int, int]:
        layout = self.layout(height, width)
        rows, cols = (max(round(side / WINDOW), 1) for side in (layout.height, layout.width))
        rows = min(rows, self.max_tiles)
        return rows, min(cols, max(self.max_tiles // rows, 1))

    def read_images(self, images: Tensor, layout: Layout) -> ImageTokens:
        vision = self.net.config.vision_config
        patch, merge, times = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        rows, cols = layout.height, layout.width
        pixels = self.normalise(resize(images, (rows * self.tile, cols * self.tile)))
        x = pixels.unflatten(2, (rows, merge, patch)).unflatten(5, (cols, merge, patch))
        x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [B, H, W, m, m, 3, p, p]
        x = x.unsqueeze(6).expand(*x.shape[:6], times, -1, -1)  # a still image is a film of equal pictures
        grid = torch.tensor([[1, rows * merge, cols * merge]], device=x.device).expand(len(images), -1)
        x = x.flatten(0, 4).flatten(1)  # [B*H*W*m*m, 3*times*p*p]
        found = self.net.model.get_image_features(pixel_values=x, image_grid_thw=grid)
        # images of one batch have one size; older transformers (5.17) do not part what a tower adds by images
        added = (
            (one if isinstance(one, Tensor) else torch.cat(list(one))).unflatten(0, (len(images), -1))
            for one in getattr(found, "deepstack_features", None) or ()
        )
        return ImageTokens(torch.stack(list(found.pooler_output)), tuple(added))

    # ---------------------------------------------------------------- places

    def rotary(self, x: Tensor, positions: Tensor) -> Any:
        # text has the same place in all three directions; older transformers (5.17) do not repeat it
        return super().rotary(x, positions if positions.ndim == 3 else positions.expand(3, -1, -1))

    def positions(self, inside: Tensor, visible: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Image tokens have a place for time, row and column `[3, b, N]`; text goes on behind the largest."""
        rows, cols = layout.height, layout.width
        at = torch.arange(inside.shape[1], device=inside.device)[None]
        first = inside.int().argmax(1, keepdim=True)  # [b, 1]
        number = at - first
        behind = at - layout.tokens + max(rows, cols)
        text = torch.where(number < 0, at, behind)
        image = torch.stack([torch.zeros_like(number), number // cols, number % cols]) + first
        positions = torch.where(inside, image, text)  # [3, b, N]
        return positions, visible.sum(1) - layout.tokens + max(rows, cols)
