"""The recipe: what a user writes, in plain torch."""

from scaler.training.recipe.recipe import Recipe

__all__ = ["Recipe"]
