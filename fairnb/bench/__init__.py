"""Time and memory, measured beside the published or plain way."""
