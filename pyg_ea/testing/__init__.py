"""Checks for potentials, aggregations and layers of your own, for any test framework.

Each function raises an ``AssertionError`` that names the check and says what was expected. All run
on a CPU, in a few seconds, and leave the random state alone::

    from pyg_ea.testing import check_aggregation, check_potential


    def test_distance():
        check_potential(Distance(), 16, 16)
        check_aggregation(lambda: EAAggregation(16, 16, potential=Distance()), 16)
"""

from pyg_ea.testing.batch import SIZES, batch
from pyg_ea.testing.modules import check_aggregation, check_module
from pyg_ea.testing.potentials import check_potential

__all__ = ["SIZES", "batch", "check_aggregation", "check_module", "check_potential"]
