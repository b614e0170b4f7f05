"""Gates that learn: learners, objectives, density and the `LightningModule`.

The module learns, validates and checkpoints; drawing is a callback of `views`. Imports `engine` and
what lies below it.
"""

from circuitprune.training.gates import HardConcrete, Learner, TopK
from circuitprune.training.module import MaskTraining

__all__ = ["HardConcrete", "Learner", "MaskTraining", "TopK"]
