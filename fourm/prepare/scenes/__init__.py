"""Scenes with exact boxes and masks, in COCO's form: cut-out photographs on photographs, and rendered rooms.

`cutouts` finds the photographs, `compose` puts them together, `rooms` renders rooms once more with the masks of their
furniture, and `writer` fills a data set with either.
"""
