"""Other people's libraries."""
