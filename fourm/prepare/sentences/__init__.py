"""`fourm prepare sentences`: aligned data as visual sentences of tokens."""
