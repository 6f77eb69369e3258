"""Training a network on a folder of images: what `ninefold train` does, as functions.

A run gives the same numbers however often it is interrupted and resumed: the order of the images, their
random crops and the random numbers of each step follow from the seed and the step's number alone.
"""

from __future__ import annotations

from ninefold.trainer.data import Data, Examples, open_folder
from ninefold.trainer.keeping import check as check_output
from ninefold.trainer.loop import train
from ninefold.trainer.objective import Objective
from ninefold.trainer.processes import joined
from ninefold.trainer.settings import Settings
from ninefold.trainer.telling import Interrupted, Tell

__all__ = [
    "Data",
    "Examples",
    "Interrupted",
    "Objective",
    "Settings",
    "Tell",
    "check_output",
    "joined",
    "open_folder",
    "train",
]
