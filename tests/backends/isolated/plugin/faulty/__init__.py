"""A backend of another package."""
