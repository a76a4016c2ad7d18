"""Scores: their titles in tables and pictures, and how they are compared."""

TITLES = {
    "ap": "AP",
    "rocauc": "ROC-AUC",
    "rmse": "RMSE",
    "mse": "squared error",
    "mae": "absolute error",
    "accuracy": "accuracy",
}
LOWER_IS_BETTER = ("rmse", "mse", "mae")
SMALL = ("mse",)
"""Metrics whose values differ by orders of magnitude."""
