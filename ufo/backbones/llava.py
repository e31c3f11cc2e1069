"""LLaVA-1.5 and its relatives with other decoders or towers, as transformers has them.

See docs/published_system.md#tiles.
UFO reads the vision tower's last layer where LLaVA itself reads the last but one: `vision_feature_layer: -1`.
"""

from __future__ import annotations

from transformers import LlavaForConditionalGeneration

from ufo.backbones.mllm import IMAGE, MLLM

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SIGLIP = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Llava(MLLM):
    """CLIP or SigLIP tiles, an MLP and a decoder like LLaMA."""

    model_class = LlavaForConditionalGeneration
    default_system = SYSTEM
    wording = "llava"
    learned_prompt_end = ": "
    patch_token = "<image>"
    image_text = "<im_start><image><im_end>"
    tokens = ("<im_start>", "<im_end>", "<box>", "</box>")
    pixel_mean_std = CLIP

    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        siglip = self.net.config.vision_config.model_type == "siglip_vision_model"
        return SIGLIP if siglip else self.pixel_mean_std

    def chat(self, question: str) -> str:
        if IMAGE in question:  # a conversation, whose format is not quite that of the other tasks
            image = self.image_text.replace(IMAGE, f"{IMAGE} ")
            return f"{self.system} {self.follow_up(question.replace(IMAGE, image, 1))}"
        return f"{self.system} User: {self.with_image(question)} ASSISTANT: "

    def follow_up(self, question: str) -> str:
        return f"USER: {question} ASSISTANT: "
