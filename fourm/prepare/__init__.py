"""Making data: rendered rooms with exact labels, and labels for photographs."""
