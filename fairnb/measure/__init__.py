"""Generate and judge images; records, metrics, targets, spread."""
