"""Tokenizers: what turns images, labels, text and boxes into token ids and back."""
