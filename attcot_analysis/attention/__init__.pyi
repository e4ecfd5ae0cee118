"""The names of this room, each with its home: `__init__.py` reads them from here."""

from .hook import attached as attached
from .hook import intervening as intervening
from .knockout import Knockout as Knockout
from .knockout import MeanValue as MeanValue
from .probe import Probe as Probe
from .probe import read_maps as read_maps
from .probe import read_masses as read_masses
from .sinks import SinkRule as SinkRule
from .sinks import find_sinks as find_sinks
