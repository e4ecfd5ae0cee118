"""The names of this room, each with its home: `__init__.py` reads them from here."""

from .measure import measure_run as measure_run
from .generations import Generations as Generations, read_generations as read_generations
from .run import RunFolder as RunFolder
