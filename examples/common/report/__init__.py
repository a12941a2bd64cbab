"""The report of a run: its numbers (`measures`), and one page that shows them."""
