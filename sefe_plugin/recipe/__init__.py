"""A recipe: its keys, the recipe checked as a whole, and its data tried ahead."""
