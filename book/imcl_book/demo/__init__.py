"""The page that runs in the reader's browser: its networks trained, their weights and stills written."""
