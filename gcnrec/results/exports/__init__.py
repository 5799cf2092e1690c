"""The forms in which embeddings and encoders leave a run."""
