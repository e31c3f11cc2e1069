"""What a kind of problem usually means in a user's own files, and what to do."""

from __future__ import annotations

SCORED = {
    "box outside its image": "evaluation counts each as missed",
    "box smaller than a pixel": "evaluation counts each as missed, unless one as small is found",
    "box of negative size": "no answer can match them, so evaluation counts each as missed",
    "annotation marked as ignored": "evaluation scores them as any other object",
    "box that leaves its image": "they are scored as they are",
    "empty sentence": "it is asked without words",
}
"""What evaluation does with a kind that training leaves out or changes."""
ADVICE = {
    "box outside its image": "boxes are x, y, width, height in pixels from the top left corner; numbers from "
    "0 to 1 and x1, y1, x2, y2 are not. Check also that height and width are not swapped",
    "box smaller than a pixel": "if it is most of them, the boxes are "
    "probably numbers from 0 to 1: multiply them by the image's width and height",
    "box of negative size": "boxes are x, y, width, height from the top left corner",
    "annotation without a box": "every annotation needs `bbox`: four numbers x, y, width, height",
    "annotation of an image that is not in the file": "its `image_id` is not an `id` of `images`; numbers "
    'and texts differ (7 is not "7")',
    "marked as crowd": "training leaves them out, evaluation neither finds nor misses them. Some label tools "
    "(CVAT) mark every brush mask so: `crowd: objects` reads them as any other object",
    "box that leaves its image": "boxes of a COCO file are x, y, width, height; are these x1, y1, x2, y2?",
    "image without objects": "there is nothing to learn from it",
    "image with a side below": "`min_size` is the smallest side that is used",
    "category that is not in the file": "its `category_id` is not an `id` of `categories`; often one "
    "counts from 0 and the other from 1",
    "annotation marked as ignored": "it has `ignore: 1`",
    "area that is 0": "COCO's AP sorts objects by it into small, medium and large",
    "part of a polygon": "a polygon is a flat list x1, y1, x2, y2, x3, y3, ... of three points or more",
    "category of the same name": "results are written with the id of the first one",
    "image that was searched for some classes only": "LVIS' own evaluator counts only those; numbers of "
    "COCO's AP are lower and not comparable with its",
    "annotation id used twice": "number the annotations anew; evaluation would count them as one",
    "image with the file of another image": "one file stands for two images, so boxes of one picture "
    "land on another: correct `file_name`, or join the two entries",
    "image id used twice": "only the first image of an id is used: number the images anew",
    "image without height and width": "add `height` and `width` to the file's `images`; until then every "
    "image is opened to find out",
    "no segmentation": "the object has no mask: neither found nor missed in instance segmentation. With "
    "`masks: false` the file serves detection only",
    "polygon with fewer than three points": "a polygon is a flat list x1, y1, x2, y2, x3, y3, ... of three "
    "points or more",
    "polygon far outside its image": "points are in pixels of the image; look for another resolution or NaN",
    "RLE of another size than its image": "`size` of an RLE is [height, width] of the image, in this order",
    "RLE whose runs do not add up to its image": "the mask has another size, or rows and columns are "
    "swapped: runs go down the columns",
    "RLE whose counts can't be read": "`counts` is a list of numbers or what pycocotools writes",
    "unreadable segmentation": "a segmentation is a list of polygons or an RLE with `size` and `counts`",
    "empty mask": "the mask has no pixel",
    "label number without a class": "the map has numbers beyond the class list: these pixels are ignored. "
    "Check `classes` and `reduce_zero_label` (whether 0 is a class)",
    "label map in a lossy format": "JPEG changes numbers at every edge; save it as PNG",
    "label map without a pixel of any class": "all of it is 255 or has no class; leave it "
    "out if that is meant",
    "object mask in a lossy format": "JPEG blurs the edge, and all but 0 belongs to the object; save it as "
    "PNG",
    "object mask with more than two numbers": "a map of several objects needs a file for each, a soft mask a "
    "threshold",
    "ref whose image is not in": "its `image_id` is not an `id` of the file's `images`",
    "ref whose annotation is not in": "its `ann_id` is not an `id` of the file's `annotations`",
    "ref whose annotation has no usable box": "every annotation needs `bbox`: four numbers "
    "x, y, width, height",
    "ref whose annotation is of another": "the ref's `image_id` is not that of its annotation in the "
    "instances file",
    "image whose id another": "give every record its own `image_id`, or every file a number at the end",
}


def advice(kind: str, scored: bool) -> str:
    """What to do about a kind of problem, and what becomes of it where it is scored all the same.

    It is the end of a sentence; empty if there is nothing to say.
    """
    said = [_of(kind, texts) for texts in ((SCORED, ADVICE) if scored else (ADVICE,))]
    known = [text for text in said if text]
    return f": {'; '.join(known)}" if known else ""


def _of(kind: str, texts: dict[str, str]) -> str:
    """The text of the entry that a kind begins with."""
    return next((text for start, text in texts.items() if kind.startswith(start)), "")
