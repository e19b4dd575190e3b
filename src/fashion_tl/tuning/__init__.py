"""A study of hyperparameters: its space, its trials by several processes, its page (Optuna)."""
