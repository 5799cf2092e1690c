"""Models that are fitted in one go, and their mixtures with a trained one."""
