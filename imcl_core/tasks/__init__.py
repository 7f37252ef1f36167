"""What a label is of, an image or a pixel: terms ask their task, and so need not know."""
