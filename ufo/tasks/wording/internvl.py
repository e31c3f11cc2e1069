"""InternVL's words: questions in whole sentences, boxes in tags (docs/published_system.md#words).

The released weights were trained with these texts to the letter (a leading blank and a curly quote included).
`<image>` in a question says where the image stands; elsewhere the chat format puts it after the question.
"""

from __future__ import annotations

from ufo.tasks.wording.base import Question, Wording

DETECTION = (
    "Detect objects in the image that belong to the following categories: {classes}. "
    "The coordinate range is 0-{num_bins}."
)
SEMANTIC = (
    "Could you help me in generating unique masks for every category present in ({classes}) in this image?",
    "Please output masks for the following categories in the image: ({classes}).",
    "Can you support me in generating masks for all the categories encompassed by ({classes}) in this image?",
    "Please accurately segment and generate masks for all the categories falling under ({classes}) "
    "in this image.",
)
GROUNDING = (
    "Please help me locate {text} in the image.",
    " Let’s find {text} within the image.",
    "Do you know where {text} is within the image?",
    "Where can we locate {text} in the image?",
)
REFERRING = (
    "Can you segment the {text} in this image? Please output segmentation mask.",
    "Please segment the {text} in this image. Please output segmentation mask.",
    "What is {text} in this image? Please output segmentation mask.",
    "What is {text} in this image? Please output segmentation mask.",
)
SENTENCE = ("{text} Please respond with segmentation mask.", "{text} Please output segmentation mask.")
PHRASE = (
    "Can you segment {text} in this image?",
    "Please segment the {text} in this image.",
    "What is {text} in this image? Please respond with segmentation mask.",
    "What is {text} in this image? Please output segmentation mask.",
)
MASK_ANSWERS = (
    "It is {mask}.",
    "Sure, {mask}.",
    "Sure, it is {mask}.",
    "Sure, the segmentation result is {mask}.",
    "{mask}.",
)


def last_asked(templates: tuple[str, ...]) -> Question:
    """Training draws any of the templates, inference uses the last."""
    return Question(templates[-1], templates)


QUESTIONS = {
    "detection": Question(
        DETECTION,
        (
            "Detect objects with the following categories in the image: {classes}. "
            "The coordinate range is 0-{num_bins}.",
        ),
    ),
    "instance_segmentation": Question(
        "Segment objects in the image that belong to the following categories: {classes}."
    ),
    "semantic_segmentation": last_asked(SEMANTIC),
    "caption": Question("Provide a one-sentence caption for the provided image."),
    "grounding": last_asked(GROUNDING),
    "referring_segmentation": last_asked(REFERRING),
    "reasoning_sentence": last_asked(SENTENCE),
    "reasoning_phrase": last_asked(PHRASE),
    "vqa": Question("<image>\n{text}"),
}

INTERNVL = Wording(
    questions=QUESTIONS,
    nothing="None.",
    box=("<box>", "</box>"),
    mask_answers=MASK_ANSWERS,
)
