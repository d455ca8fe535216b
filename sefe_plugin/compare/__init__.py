"""Many sequences side by side: arms x seeds x orders, and what they say together."""
