"""How sensitive classifiers are: attacks in several norms on plain and adversarially trained networks."""
