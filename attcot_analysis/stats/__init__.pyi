"""The names of this room, each with its home: `__init__.py` reads them from here."""

from .catalogue import METRICS as METRICS
from .catalogue import Metric as Metric
from .catalogue import register_metrics as register_metrics
from .crossed import Estimate as Estimate
from .crossed import paired_difference as paired_difference
from .crossed import seeds_items as seeds_items
from .crossed import step_curve as step_curve
from .family import claim_family as claim_family
from .intervals import Interval as Interval
from .intervals import at_positions as at_positions
from .intervals import bootstrap_mean as bootstrap_mean
from .lengths import RhAuc as RhAuc
from .lengths import rh_auc as rh_auc
