"""What makes the book: notebooks executed and checked, figures, exercises, sliders, Sphinx, the site."""
