"""Training of graph networks with Equilibrium Aggregation on ogbg-molpcba and sets of its form."""
