"""Why classifiers are sensitive: power laws of adversarial error, linear response, logit gaps; what changes them."""
