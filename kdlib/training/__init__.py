"""Teachers and students: networks, recipes, supervision by a teacher, the training loop, checkpoints."""

from kdlib.training.checkpoints import read_variables, save_variables
from kdlib.training.loop import Trained, train
from kdlib.training.networks import NETWORKS
from kdlib.training.ntk_parametrised import NTKParametrised
from kdlib.training.recipe import Recipe
from kdlib.training.teacher import CachedLogits, Teacher

__all__ = [
    "NETWORKS",
    "CachedLogits",
    "NTKParametrised",
    "Recipe",
    "Teacher",
    "Trained",
    "read_variables",
    "save_variables",
    "train",
]
