"""Requests into methods: the table, what validates parameters, and what each method does."""
