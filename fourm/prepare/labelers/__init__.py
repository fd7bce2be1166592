"""What is said of photographs: one labeler per file, found by name (`configs.LABELER_KINDS`)."""
