"""`fourm prepare photos`: a collection of photographs into aligned shards, with labels of any kind."""
