"""The recipe: what it is, how it is found, imported and checked."""

from scaler.training.recipe.eval import Eval
from scaler.training.recipe.recipe import Recipe

__all__ = ["Eval", "Recipe"]
