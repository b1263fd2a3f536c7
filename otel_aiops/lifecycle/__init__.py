"""The lifecycle of models: objectives, datasets, training, evaluation, registry, rollout, monitoring."""
