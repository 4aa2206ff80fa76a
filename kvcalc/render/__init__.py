"""Answers as text: one view per command says what to show, one module per format how."""
