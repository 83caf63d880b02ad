"""Judgement: scores and predictions."""
