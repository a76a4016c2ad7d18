"""Convolutions with Equilibrium Aggregation beside the sum over neighbours."""

from pyg_ea.conv.ea_conv import EAConv
from pyg_ea.conv.edges import Edges
from pyg_ea.conv.forms import Form, GCNForm, GINForm
from pyg_ea.conv.sum_ea import SumEAAggregation

__all__ = ["EAConv", "Edges", "Form", "GCNForm", "GINForm", "SumEAAggregation"]
