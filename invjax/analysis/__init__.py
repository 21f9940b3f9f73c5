"""Numbers about a trained model."""

from invjax.analysis.decision import Slice, decision_segment, decision_slice
from invjax.analysis.information import Reading, fresh_head, reading, train_head

__all__ = ["Reading", "Slice", "decision_segment", "decision_slice", "fresh_head", "reading", "train_head"]
