"""Draw portraits of people and images of things."""
