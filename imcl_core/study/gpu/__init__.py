"""Half an hour of a GPU: is it right, how fast is it, then runs to the end of the time."""
