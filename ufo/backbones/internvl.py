"""InternVL 2.5, 3 and later, as transformers has them (docs/published_system.md#tiles)."""

from __future__ import annotations

from transformers import InternVLForConditionalGeneration

from ufo.backbones.mllm import MLLM

# the system text that the published models were trained with, to the letter
SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，"
    "英文名叫InternVL, 是一个有用无害的人工智能助手。"
)


class InternVL(MLLM):
    """InternViT tiles, pixel unshuffle, an MLP and a Llama- or Qwen-like decoder."""

    model_class = InternVLForConditionalGeneration
    default_system = SYSTEM
    wording = "internvl"
    learned_prompt_end = "\n"
    patch_token = "<IMG_CONTEXT>"
    image_text = "<img><IMG_CONTEXT></img>"
    tokens = ("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<box>", "</box>")
    pixel_mean_std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def chat(self, question: str) -> str:
        return f"<|im_start|>system\n{self.system}<|im_end|>{self.follow_up(self.with_image(question))}"

    def follow_up(self, question: str) -> str:
        return f"{self._between}<|im_start|>user\n{question}<|im_end|>{self._between}<|im_start|>assistant\n"

    @property
    def _between(self) -> str:
        """What stands between turns: the published UFO models, which have a Llama, were trained without."""
        return "" if self.net.config.text_config.model_type == "llama" else "\n"
