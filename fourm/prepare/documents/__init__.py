"""`fourm prepare documents`: what rooms and clothes show, as documents of text and images."""
