"""CSRA's loss is the plain one: binary cross-entropy over all labels; cross-entropy where a picture has one class."""

from attnbias.methods.engine.losses import classification_loss

__all__ = ["classification_loss"]
