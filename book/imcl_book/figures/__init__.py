"""Every figure of the book, one function each, in the file of the chapter that shows it."""
