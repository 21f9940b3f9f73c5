"""Numbers about a trained model."""

from invjax.analysis.information import Reading, fresh_head, reading

__all__ = ["Reading", "fresh_head", "reading"]
