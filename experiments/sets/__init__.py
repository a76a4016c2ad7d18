"""What studies of aggregators on sets share: aggregators, the model and its training, the study."""
