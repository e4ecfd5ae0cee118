"""The names of this room, each with its home: `__init__.py` reads them from here."""

from .generations import Generations as Generations
from .generations import read_generations as read_generations
from .measure import measure_run as measure_run
from .run import RunFolder as RunFolder
