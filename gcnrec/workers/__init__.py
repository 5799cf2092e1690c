"""Several processes that train one run: what they send each other, and who starts them."""
