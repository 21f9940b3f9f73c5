"""Why classifiers are sensitive: power laws of adversarial error, linear response, and logit gaps."""
