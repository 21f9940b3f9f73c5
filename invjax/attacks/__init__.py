"""Ways to fool a classifier."""

from invjax.attacks.metamers import metamers

__all__ = ["metamers"]
