"""What a training needs of a device's memory, before it begins: `ufo memory` (docs/recipes.md#memory)."""
